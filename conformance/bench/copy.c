/*
 * Brings all data objects of one token to another one, by the calls with which a resync does it and by nothing else: all
 * are found and read, each is read once more right before it is created on the other token, and read back there; then
 * both are searched again.
 *
 *   copy MODULE SOURCE TARGET PIN COUNT     labels of two tokens of one module; how many objects have to come
 *
 * It answers with seconds from the first search to the end of the last one, or with the call that was refused.
 */
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 256, ROOM = 512, READ = 11 };

static CK_FUNCTION_LIST *p11;
static const char *module, *pin;

#define CALL(function, ...) check(#function, p11->function(__VA_ARGS__))

static void fail(const char *name, CK_RV rv)
{
    printf("no %s answered %#lx\n", name, rv);
    exit(1);
}

static void check(const char *name, CK_RV rv)
{
    if (rv != CKR_OK)
        fail(name, rv);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void load(void)
{
    CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
    CK_C_GetFunctionList get;
    void *object = dlopen(module, RTLD_NOW | RTLD_LOCAL);
    if (!object || !(get = (CK_C_GetFunctionList)dlsym(object, "C_GetFunctionList")))
        fail("dlopen", CKR_GENERAL_ERROR);
    check("C_GetFunctionList", get(&p11));
    CALL(C_Initialize, &args);
}

static CK_SESSION_HANDLE enter(const char *label)
{
    CK_SLOT_ID slots[64];
    CK_ULONG count = 64;
    CK_TOKEN_INFO info;
    CK_SESSION_HANDLE session;
    char padded[33];
    snprintf(padded, sizeof padded, "%-32s", label);
    CALL(C_GetSlotList, CK_TRUE, slots, &count);
    for (CK_ULONG i = 0; i < count; i++) {
        if (p11->C_GetTokenInfo(slots[i], &info) != CKR_OK || memcmp(info.label, padded, 32) != 0)
            continue;
        CALL(C_OpenSession, slots[i], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session);
        CALL(C_Login, session, CKU_USER, (CK_UTF8CHAR *)pin, strlen(pin));
        return session;
    }
    fail("no such token", CKR_TOKEN_NOT_PRESENT);
    return 0;
}

static CK_BBOOL yes = CK_TRUE;
static CK_OBJECT_CLASS data = CKO_DATA;

/* How many there are; the handles go into `found` where there is room. */
static size_t find(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *found, size_t room)
{
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &data, sizeof data}, {CKA_TOKEN, &yes, 1}, {CKA_APPLICATION, "bench", 5}};
    CK_OBJECT_HANDLE batch[BATCH];
    CK_ULONG count;
    size_t all = 0;
    CALL(C_FindObjectsInit, session, template, 3);
    do {
        CALL(C_FindObjects, session, batch, BATCH, &count);
        for (CK_ULONG i = 0; i < count; i++, all++)
            if (all < room)
                found[all] = batch[i];
    } while (count == BATCH);
    CALL(C_FindObjectsFinal, session);
    return all;
}

static const CK_ATTRIBUTE_TYPE told[READ] = {
    CKA_CLASS,     CKA_TOKEN,      CKA_ID,       CKA_LABEL,       CKA_APPLICATION, CKA_PRIVATE,
    CKA_OBJECT_ID, CKA_MODIFIABLE, CKA_COPYABLE, CKA_DESTROYABLE, CKA_VALUE,
};
static unsigned char rooms[READ][ROOM];
static CK_ATTRIBUTE seen[READ];

/* Some of them no data object has, which is no failure. */
static void read(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object)
{
    for (int i = 0; i < READ; i++)
        seen[i] = (CK_ATTRIBUTE){told[i], rooms[i], ROOM};
    CK_RV rv = p11->C_GetAttributeValue(session, object, seen, READ);
    if (rv != CKR_ATTRIBUTE_TYPE_INVALID)
        check("C_GetAttributeValue", rv);
}

/* What was read last. */
static CK_OBJECT_HANDLE create(CK_SESSION_HANDLE session)
{
    CK_ATTRIBUTE template[READ];
    CK_ULONG count = 0;
    CK_OBJECT_HANDLE made;
    for (int i = 0; i < READ; i++)
        if (seen[i].ulValueLen != CK_UNAVAILABLE_INFORMATION && seen[i].ulValueLen)
            template[count++] = seen[i];
    CALL(C_CreateObject, session, template, count, &made);
    return made;
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    module = argv[1];
    pin = argv[4];
    size_t count = strtoul(argv[5], NULL, 10);
    CK_OBJECT_HANDLE *objects = calloc(count, sizeof *objects);
    load();
    CK_SESSION_HANDLE source = enter(argv[2]), target = enter(argv[3]);
    double start = now();
    if (!objects || find(target, NULL, 0) != 0 || find(source, objects, count) != count)
        fail("other objects than there should be", CKR_GENERAL_ERROR);
    for (size_t i = 0; i < count; i++)
        read(source, objects[i]);
    for (size_t i = 0; i < count; i++) {
        read(source, objects[i]);
        read(target, create(target));
    }
    if (find(source, NULL, 0) != count || find(target, NULL, 0) != count)
        fail("other objects than there should be", CKR_GENERAL_ERROR);
    printf("%.6f\n", now() - start);
    p11->C_Finalize(NULL);
    return 0;
}
