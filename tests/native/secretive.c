/*
 * secretive MODULE: an application that keeps no copy of what it hands to a module, so that whoever looks at its memory
 * afterwards sees what the module kept.
 *
 * The first two lines on stdin are the PIN and a key value: hexadecimal, each byte XORed with 0x5a. Then commands, each
 * answered by a CK_RV in hexadecimal: login, set-pin, import TOKEN SENSITIVE EXTRACTABLE (0 or 1), read (the last key's
 * value), encrypt (the key value as data, in parts), logout, finalize.
 */
#include "host.h"

#include <stdint.h>

#define MASK 0x5a

static CK_FUNCTION_LIST *list;
static unsigned char masked_pin[64], masked_key[64], open_secret[64];
static size_t pin_length, key_length;
static CK_SESSION_HANDLE session;
static CK_OBJECT_HANDLE last;

static size_t unhex(unsigned char *out)
{
    char line[256];
    size_t length = 0;
    CHECK(fgets(line, sizeof line, stdin));
    for (unsigned byte; sscanf(line + 2 * length, "%2x", &byte) == 1; length++)
        out[length] = (unsigned char)byte;
    return length;
}

static unsigned char *unmask(const unsigned char *masked, size_t length)
{
    for (size_t at = 0; at < length; at++)
        open_secret[at] = masked[at] ^ MASK;
    return open_secret;
}

static CK_RV login(void)
{
    return list->C_Login(session, CKU_USER, unmask(masked_pin, pin_length), pin_length);
}

static CK_RV import(int token, int sensitive, int extractable)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_BBOOL yes = CK_TRUE, on_token = token, is_sensitive = sensitive, leaves = extractable;
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_KEY_TYPE, &type, sizeof type},
        {CKA_TOKEN, &on_token, 1},
        {CKA_PRIVATE, &yes, 1},
        {CKA_SENSITIVE, &is_sensitive, 1},
        {CKA_EXTRACTABLE, &leaves, 1},
        {CKA_ENCRYPT, &yes, 1},
        {CKA_VALUE, unmask(masked_key, key_length), key_length},
    };
    return list->C_CreateObject(session, template, sizeof template / sizeof *template, &last);
}

static CK_RV encrypt_in_parts(void)
{
    unsigned char iv[16] = {0}, out[128];
    CK_MECHANISM mechanism = {CKM_AES_CBC_PAD, iv, sizeof iv};
    CK_ULONG length = sizeof out;
    CK_RV rv = list->C_EncryptInit(session, &mechanism, last);
    for (int part = 0; part < 2 && rv == CKR_OK; part++, length = sizeof out)
        rv = list->C_EncryptUpdate(session, unmask(masked_key, key_length), key_length, out, &length);
    return rv == CKR_OK ? list->C_EncryptFinal(session, out, &length) : rv;
}

static CK_RV set_pin(void)
{
    unsigned char *pin = unmask(masked_pin, pin_length);
    return list->C_SetPIN(session, pin, pin_length, pin, pin_length);
}

static CK_RV read_value(void)
{
    CK_ATTRIBUTE wanted = {CKA_VALUE, open_secret, sizeof open_secret};
    CK_RV rv = list->C_GetAttributeValue(session, last, &wanted, 1);
    if (rv == CKR_OK)
        CHECK(wanted.ulValueLen == key_length);
    return rv;
}

int main(int argc, char **argv)
{
    void *handle;
    char line[64];
    int token, sensitive, extractable;
    CK_SLOT_ID slot;
    CK_ULONG count = 1;

    alarm(50);
    setvbuf(stdin, NULL, _IONBF, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    pin_length = unhex(masked_pin);
    key_length = unhex(masked_key);
    list = load(argv[argc - 1], &handle);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    CHECK(list->C_GetSlotList(CK_TRUE, &slot, &count) == CKR_OK);
    CHECK(list->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session) == CKR_OK);
    while (fgets(line, sizeof line, stdin)) {
        CK_RV rv = CKR_GENERAL_ERROR;
        if (!strcmp(line, "login\n"))
            rv = login();
        else if (!strcmp(line, "logout\n"))
            rv = list->C_Logout(session);
        else if (sscanf(line, "import %d %d %d", &token, &sensitive, &extractable) == 3)
            rv = import(token, sensitive, extractable);
        else if (!strcmp(line, "read\n"))
            rv = read_value();
        else if (!strcmp(line, "encrypt\n"))
            rv = encrypt_in_parts();
        else if (!strcmp(line, "set-pin\n"))
            rv = set_pin();
        else if (!strcmp(line, "finalize\n"))
            rv = list->C_Finalize(NULL);
        explicit_bzero(open_secret, sizeof open_secret);
        printf("%lx\n", (unsigned long)rv);
    }
    return 0;
}
