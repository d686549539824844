/*
 * workers MODULE PIN LABEL COUNT: a server as nginx is one. COUNT forked workers each initialise the module, log in, sign,
 * and are idle then; "ok" is written when all are. At the end of stdin they sign again and end. Anything else than CKR_OK
 * ends the program with a line on stderr.
 */
#include "host.h"

#include <sys/wait.h>

static void sign(CK_FUNCTION_LIST *list, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    unsigned char digest[32] = {1}, signature[64];
    CK_MECHANISM ecdsa = {CKM_ECDSA, NULL, 0};
    CK_ULONG length = sizeof signature;

    CHECK(list->C_SignInit(session, &ecdsa, key) == CKR_OK);
    CHECK(list->C_Sign(session, digest, sizeof digest, signature, &length) == CKR_OK && length == 64);
}

static void worker(char **argv, int ready, int end)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, argv[3], strlen(argv[3])}};
    CK_FUNCTION_LIST *list;
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key[2];
    CK_ULONG count = 1;
    CK_SLOT_ID slot;
    char byte = 0;
    void *handle;

    alarm(660); /* a hung worker must not outlive the test */
    list = load(argv[1], &handle);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    CHECK(list->C_GetSlotList(CK_TRUE, &slot, &count) == CKR_OK && count == 1);
    CHECK(list->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session) == CKR_OK);
    CHECK(list->C_Login(session, CKU_USER, (unsigned char *)argv[2], strlen(argv[2])) == CKR_OK);
    CHECK(list->C_FindObjectsInit(session, wanted, 2) == CKR_OK);
    CHECK(list->C_FindObjects(session, key, 2, &count) == CKR_OK && count == 1);
    CHECK(list->C_FindObjectsFinal(session) == CKR_OK);
    sign(list, session, key[0]);
    CHECK(write(ready, &byte, 1) == 1);
    CHECK(read(end, &byte, 1) == 0);
    sign(list, session, key[0]);
    CHECK(list->C_Finalize(NULL) == CKR_OK);
    _exit(0);
}

int main(int argc, char **argv)
{
    int ready[2], end[2], count, status;
    char byte;

    CHECK(argc == 5 && pipe(ready) == 0 && pipe(end) == 0);
    count = atoi(argv[4]);
    for (int i = 0; i < count; i++) {
        pid_t child = fork();

        CHECK(child >= 0);
        if (child == 0) {
            close(end[1]);
            worker(argv, ready[1], end[0]);
        }
    }
    close(ready[1]);
    close(end[0]);
    for (int i = 0; i < count; i++)
        CHECK(read(ready[0], &byte, 1) == 1);
    puts("ok");
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
        ;
    close(end[1]);
    for (int i = 0; i < count; i++) {
        CHECK(wait(&status) > 0);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    return 0;
}
