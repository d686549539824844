/*
 * secretive MODULE: an application that keeps no copy of what it hands to a module, so that whoever looks at its memory
 * afterwards sees what the module kept.
 *
 * The first three lines on stdin are the PIN, another PIN, which is the SO's too, and a key value: hexadecimal, each byte
 * XORed with 0x5a. Then commands, each answered by a CK_RV in hexadecimal: login, login-so, init-pin (the PIN), set-pin
 * OLD NEW (0 the PIN, 1 the other), import TOKEN SENSITIVE EXTRACTABLE (0 or 1; an AES key), import-ec with the same
 * (P-256), unwrap TOKEN SENSITIVE EXTRACTABLE KEY BLOB (the AES key that this AES key unwraps by CKM_AES_KEY_WRAP,
 * hexadecimal as it is), read (the last key's value), encrypt (the key value as data, in parts), decrypt (what gives the
 * key value back), logout, finalize.
 */
#include "host.h"

#include <stdint.h>

#define MASK 0x5a

static CK_FUNCTION_LIST *list;
static unsigned char masked_pins[2][64], masked_key[64], open_secret[64];
static size_t pin_lengths[2], key_length;
static CK_SESSION_HANDLE session;
static CK_OBJECT_HANDLE last;
static CK_BBOOL yes = CK_TRUE;

static size_t unhex(unsigned char *out, const char *text)
{
    size_t length = 0;
    for (unsigned byte; sscanf(text + 2 * length, "%2x", &byte) == 1; length++)
        out[length] = (unsigned char)byte;
    return length;
}

static size_t unhex_line(unsigned char *out)
{
    char line[256];
    CHECK(fgets(line, sizeof line, stdin));
    return unhex(out, line);
}

static unsigned char *unmask(const unsigned char *masked, size_t length)
{
    for (size_t at = 0; at < length; at++)
        open_secret[at] = masked[at] ^ MASK;
    return open_secret;
}

static CK_RV login(CK_USER_TYPE user)
{
    int which = user == CKU_SO;
    return list->C_Login(session, user, unmask(masked_pins[which], pin_lengths[which]), pin_lengths[which]);
}

static CK_RV import(CK_KEY_TYPE type, int token, int sensitive, int extractable)
{
    static unsigned char p256[] = {6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7};
    CK_OBJECT_CLASS class = type == CKK_EC ? CKO_PRIVATE_KEY : CKO_SECRET_KEY;
    CK_BBOOL on_token = token, is_sensitive = sensitive, leaves = extractable;
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_KEY_TYPE, &type, sizeof type},
        {CKA_TOKEN, &on_token, 1},
        {CKA_PRIVATE, &yes, 1},
        {CKA_SENSITIVE, &is_sensitive, 1},
        {CKA_EXTRACTABLE, &leaves, 1},
        {CKA_VALUE, unmask(masked_key, key_length), key_length},
        {type == CKK_EC ? CKA_DERIVE : CKA_ENCRYPT, &yes, 1},
        {type == CKK_EC ? CKA_EC_PARAMS : CKA_DECRYPT, type == CKK_EC ? p256 : &yes, type == CKK_EC ? sizeof p256 : 1},
    };
    return list->C_CreateObject(session, template, sizeof template / sizeof *template, &last);
}

static CK_RV unwrap(int token, int sensitive, int extractable, const char *key, const char *blob)
{
    unsigned char value[64], wrapped[64];
    CK_ULONG length = unhex(value, key), size = unhex(wrapped, blob);
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_BBOOL on_token = token, is_sensitive = sensitive, leaves = extractable;
    CK_MECHANISM mechanism = {CKM_AES_KEY_WRAP, NULL, 0};
    CK_OBJECT_HANDLE unwrapping;
    CK_ATTRIBUTE other[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_KEY_TYPE, &type, sizeof type},
        {CKA_UNWRAP, &yes, 1},
        {CKA_VALUE, value, length},
    };
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_KEY_TYPE, &type, sizeof type},
        {CKA_TOKEN, &on_token, 1},
        {CKA_PRIVATE, &yes, 1},
        {CKA_SENSITIVE, &is_sensitive, 1},
        {CKA_EXTRACTABLE, &leaves, 1},
        {CKA_ENCRYPT, &yes, 1},
        {CKA_DECRYPT, &yes, 1},
    };
    CK_RV rv = list->C_CreateObject(session, other, sizeof other / sizeof *other, &unwrapping);
    return rv != CKR_OK ? rv
                        : list->C_UnwrapKey(session, &mechanism, unwrapping, wrapped, size, template,
                                            sizeof template / sizeof *template, &last);
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

/* In one go and in parts, by the key that encrypts the key value with zeros before it. */
static CK_RV decrypt(void)
{
    unsigned char iv[16] = {0}, hidden[128];
    CK_MECHANISM mechanism = {CKM_AES_CBC_PAD, iv, sizeof iv};
    CK_ULONG size = sizeof hidden, length = sizeof open_secret, rest;
    CK_RV rv = list->C_EncryptInit(session, &mechanism, last);
    if (rv == CKR_OK)
        rv = list->C_Encrypt(session, unmask(masked_key, key_length), key_length, hidden, &size);
    explicit_bzero(open_secret, sizeof open_secret);
    if (rv == CKR_OK)
        rv = list->C_DecryptInit(session, &mechanism, last);
    if (rv == CKR_OK)
        rv = list->C_Decrypt(session, hidden, size, open_secret, &length);
    if (rv == CKR_OK)
        rv = list->C_DecryptInit(session, &mechanism, last);
    length = rest = sizeof open_secret;
    if (rv == CKR_OK)
        rv = list->C_DecryptUpdate(session, hidden, size, open_secret, &length);
    rest -= length;
    return rv == CKR_OK ? list->C_DecryptFinal(session, open_secret + length, &rest) : rv;
}

static CK_RV init_pin(void)
{
    return list->C_InitPIN(session, unmask(masked_pins[0], pin_lengths[0]), pin_lengths[0]);
}

static CK_RV set_pin(int old, int new)
{
    unsigned char second[64];
    CK_RV rv;
    memcpy(second, unmask(masked_pins[new], pin_lengths[new]), pin_lengths[new]);
    rv = list->C_SetPIN(session, unmask(masked_pins[old], pin_lengths[old]), pin_lengths[old], second,
                        pin_lengths[new]);
    explicit_bzero(second, sizeof second);
    return rv;
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
    char line[512], key[128], blob[128];
    int token, sensitive, extractable, old, new;
    CK_SLOT_ID slot;
    CK_ULONG count = 1;

    alarm(120);
    setvbuf(stdin, NULL, _IONBF, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int which = 0; which < 2; which++)
        pin_lengths[which] = unhex_line(masked_pins[which]);
    key_length = unhex_line(masked_key);
    list = load(argv[argc - 1], &handle);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    CHECK(list->C_GetSlotList(CK_TRUE, &slot, &count) == CKR_OK);
    CHECK(list->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session) == CKR_OK);
    while (fgets(line, sizeof line, stdin)) {
        CK_RV rv = CKR_GENERAL_ERROR;
        if (!strcmp(line, "login\n"))
            rv = login(CKU_USER);
        else if (!strcmp(line, "login-so\n"))
            rv = login(CKU_SO);
        else if (!strcmp(line, "logout\n"))
            rv = list->C_Logout(session);
        else if (sscanf(line, "import %d %d %d", &token, &sensitive, &extractable) == 3)
            rv = import(CKK_AES, token, sensitive, extractable);
        else if (sscanf(line, "import-ec %d %d %d", &token, &sensitive, &extractable) == 3)
            rv = import(CKK_EC, token, sensitive, extractable);
        else if (sscanf(line, "unwrap %d %d %d %127s %127s", &token, &sensitive, &extractable, key, blob) == 5)
            rv = unwrap(token, sensitive, extractable, key, blob);
        else if (!strcmp(line, "read\n"))
            rv = read_value();
        else if (!strcmp(line, "encrypt\n"))
            rv = encrypt_in_parts();
        else if (!strcmp(line, "decrypt\n"))
            rv = decrypt();
        else if (!strcmp(line, "init-pin\n"))
            rv = init_pin();
        else if (sscanf(line, "set-pin %d %d", &old, &new) == 2)
            rv = set_pin(old, new);
        else if (!strcmp(line, "finalize\n"))
            rv = list->C_Finalize(NULL);
        explicit_bzero(open_secret, sizeof open_secret);
        printf("%lx\n", (unsigned long)rv);
    }
    return 0;
}
