/*
 * Calls one PKCS #11 module and counts: told on standard input what to do, a line each, it answers with a line each.
 *
 *   load                        load and C_Initialize: microseconds of the two
 *   open                        the same, then first session and login: microseconds of the four
 *   keys                        makes the keys that are not there yet, and finds them
 *   fill COUNT                  makes data objects until there are COUNT of them
 *   run NAME THREADS MILLISECONDS   operations, nanoseconds, median nanoseconds of one operation
 *   trace NAME THREADS MILLISECONDS FILE   operations, failed ones; into the file a line for each operation: when it began
 *                               (nanoseconds of CLOCK_MONOTONIC) and how long it took
 *   sessions COUNT              so many sessions that nobody uses: microseconds to open one
 *
 * An answer is "ok" and numbers, or "no" and which call answered which CK_RV.
 * drive MODULE TOKEN PIN. The sessions of threads and the handles of keys stay from run to run, as a server's do.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS = 64, SAMPLES = 1 << 15, KIB = 1024, BATCH = 1000 };

static CK_FUNCTION_LIST *p11;
static CK_SLOT_ID slot;
static const char *module, *label, *pin;

/* What went wrong first: a static name, so that threads may race for it. */
static _Atomic(const char *) failed;
static atomic_ulong failed_rv;

#define CALL(function, ...) check(#function, p11->function(__VA_ARGS__))

static int check(const char *name, CK_RV rv)
{
    const char *none = NULL;
    if (rv == CKR_OK)
        return 1;
    if (atomic_compare_exchange_strong(&failed, &none, name))
        atomic_store(&failed_rv, rv);
    return 0;
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Keys: random names for the secret ones would be no use, every target has a token of its own. */

enum { RSA, EC, AES, KEYS };
static const char *const names[KEYS] = {"bench-rsa", "bench-ec", "bench-aes"};
static const CK_OBJECT_CLASS classes[KEYS] = {CKO_PRIVATE_KEY, CKO_PRIVATE_KEY, CKO_SECRET_KEY};
static CK_OBJECT_HANDLE keys[KEYS];

static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
static unsigned char cipher[256]; /* for RSA decryption */

static int find_key(CK_SESSION_HANDLE session, int key, CK_OBJECT_CLASS class, CK_OBJECT_HANDLE *found)
{
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_LABEL, (void *)names[key], strlen(names[key])},
    };
    CK_ULONG count = 0;
    if (!CALL(C_FindObjectsInit, session, template, 2))
        return -1;
    int good = CALL(C_FindObjects, session, found, 1, &count);
    return CALL(C_FindObjectsFinal, session) && good ? (int)count : -1;
}

static int make_key(CK_SESSION_HANDLE session, int key)
{
    static unsigned char p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}, three[] = {1, 0, 1};
    CK_ULONG bits = 2048, bytes = 32;
    CK_OBJECT_HANDLE one, other;
    void *name = (void *)names[key];
    size_t length = strlen(name);
    CK_ATTRIBUTE private[] = {
        {CKA_TOKEN, &yes, 1},     {CKA_PRIVATE, &yes, 1}, {CKA_SENSITIVE, &yes, 1}, {CKA_LABEL, name, length},
        {CKA_ID, name, length},   {CKA_SIGN, &yes, 1},    {CKA_DECRYPT, &yes, 1},
    };
    CK_ATTRIBUTE public[] = {
        {CKA_TOKEN, &yes, 1},  {CKA_LABEL, name, length},   {CKA_ID, name, length},
        {CKA_VERIFY, &yes, 1}, {CKA_ENCRYPT, &yes, 1},
        key == RSA ? (CK_ATTRIBUTE){CKA_MODULUS_BITS, &bits, sizeof bits} : (CK_ATTRIBUTE){CKA_EC_PARAMS, p256, 10},
        {CKA_PUBLIC_EXPONENT, three, 3},
    };
    CK_ATTRIBUTE secret[] = {
        {CKA_TOKEN, &yes, 1},      {CKA_PRIVATE, &yes, 1}, {CKA_SENSITIVE, &yes, 1}, {CKA_LABEL, name, length},
        {CKA_ENCRYPT, &yes, 1},    {CKA_DECRYPT, &yes, 1}, {CKA_VALUE_LEN, &bytes, sizeof bytes},
    };
    CK_MECHANISM rsa = {CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0}, ec = {CKM_EC_KEY_PAIR_GEN, NULL, 0};
    CK_MECHANISM aes = {CKM_AES_KEY_GEN, NULL, 0};
    if (key == AES)
        return CALL(C_GenerateKey, session, &aes, secret, 7, &one);
    return CALL(C_GenerateKeyPair, session, key == RSA ? &rsa : &ec, public, key == RSA ? 7 : 6, private,
                key == RSA ? 7 : 6, &one, &other);
}

static int have_keys(CK_SESSION_HANDLE session)
{
    unsigned char text[32] = "thirty-two bytes to be encrypted";
    CK_MECHANISM pkcs = {CKM_RSA_PKCS, NULL, 0};
    CK_OBJECT_HANDLE public;
    CK_ULONG length = sizeof cipher;
    for (int key = 0; key < KEYS; key++) {
        int found = find_key(session, key, classes[key], &keys[key]);
        if (found == 0)
            found = make_key(session, key) ? find_key(session, key, classes[key], &keys[key]) : -1;
        if (found != 1)
            return check("the key is not there", CKR_KEY_HANDLE_INVALID) && 0;
    }
    return find_key(session, RSA, CKO_PUBLIC_KEY, &public) == 1 && CALL(C_EncryptInit, session, &pkcs, public) &&
           CALL(C_Encrypt, session, text, sizeof text, cipher, &length);
}

static int fill(CK_SESSION_HANDLE session, long count)
{
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_OBJECT_HANDLE made;
    char name[32];
    for (long i = 0; i < count; i++) {
        int length = snprintf(name, sizeof name, "data-%06ld", i);
        CK_ATTRIBUTE template[] = {
            {CKA_CLASS, &class, sizeof class}, {CKA_TOKEN, &yes, 1},
            {CKA_PRIVATE, &no, 1},             {CKA_LABEL, name, (CK_ULONG)length},
            {CKA_APPLICATION, "bench", 5},     {CKA_VALUE, name, (CK_ULONG)length},
        };
        if (!CALL(C_CreateObject, session, template, 6, &made))
            return 0;
    }
    return 1;
}

/* Operations: each on a session of its thread, each 1 where all its calls answered CKR_OK. */

static int session_info(CK_SESSION_HANDLE session)
{
    CK_SESSION_INFO info;
    return CALL(C_GetSessionInfo, session, &info);
}

static int random_16(CK_SESSION_HANDLE session)
{
    unsigned char bytes[16];
    return CALL(C_GenerateRandom, session, bytes, sizeof bytes);
}

static int digest_1k(CK_SESSION_HANDLE session)
{
    unsigned char data[KIB] = {1}, digest[32];
    CK_MECHANISM sha256 = {CKM_SHA256, NULL, 0};
    CK_ULONG length = sizeof digest;
    return CALL(C_DigestInit, session, &sha256) && CALL(C_Digest, session, data, KIB, digest, &length);
}

static int aes_cbc_1k(CK_SESSION_HANDLE session)
{
    unsigned char data[KIB] = {1}, result[KIB], iv[16] = {2};
    CK_MECHANISM cbc = {CKM_AES_CBC, iv, sizeof iv};
    CK_ULONG length = sizeof result;
    return CALL(C_EncryptInit, session, &cbc, keys[AES]) && CALL(C_Encrypt, session, data, KIB, result, &length);
}

static int sign_p256(CK_SESSION_HANDLE session)
{
    unsigned char digest[32] = {3}, signature[64];
    CK_MECHANISM ecdsa = {CKM_ECDSA, NULL, 0};
    CK_ULONG length = sizeof signature;
    return CALL(C_SignInit, session, &ecdsa, keys[EC]) && CALL(C_Sign, session, digest, 32, signature, &length);
}

static int sign_rsa(CK_SESSION_HANDLE session)
{
    unsigned char digest[32] = {3}, signature[256];
    CK_MECHANISM pkcs = {CKM_RSA_PKCS, NULL, 0};
    CK_ULONG length = sizeof signature;
    return CALL(C_SignInit, session, &pkcs, keys[RSA]) && CALL(C_Sign, session, digest, 32, signature, &length);
}

static int decrypt_rsa(CK_SESSION_HANDLE session)
{
    unsigned char text[256];
    CK_MECHANISM pkcs = {CKM_RSA_PKCS, NULL, 0};
    CK_ULONG length = sizeof text;
    return CALL(C_DecryptInit, session, &pkcs, keys[RSA]) &&
           CALL(C_Decrypt, session, cipher, sizeof cipher, text, &length);
}

static int attributes(CK_SESSION_HANDLE session)
{
    CK_OBJECT_CLASS class;
    char name[32], id[32];
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, name, 32}, {CKA_ID, id, 32}};
    return CALL(C_GetAttributeValue, session, keys[EC], template, 3);
}

static int find(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG expected)
{
    CK_OBJECT_HANDLE found[BATCH];
    CK_ULONG count, all = 0;
    if (!CALL(C_FindObjectsInit, session, template, 2))
        return 0;
    do {
        if (!CALL(C_FindObjects, session, found, BATCH, &count))
            return 0;
        all += count;
    } while (count == BATCH);
    if (!CALL(C_FindObjectsFinal, session))
        return 0;
    return all >= expected || check("fewer objects found than there are", CKR_GENERAL_ERROR);
}

static CK_OBJECT_CLASS data_class = CKO_DATA;

static int find_one(CK_SESSION_HANDLE session)
{
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &data_class, sizeof data_class}, {CKA_LABEL, "data-000077", 11}};
    return find(session, template, 1);
}

static int find_all(CK_SESSION_HANDLE session)
{
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &data_class, sizeof data_class}, {CKA_APPLICATION, "bench", 5}};
    return find(session, template, BATCH);
}

static const struct operation {
    const char *name;
    int (*once)(CK_SESSION_HANDLE);
    int slow; /* so long that what the first one has more is nothing */
} operations[] = {
    {"session-info", session_info, 0}, {"random-16", random_16, 0},   {"digest-1k", digest_1k, 0},
    {"aes-cbc-1k", aes_cbc_1k, 0},     {"sign-p256", sign_p256, 0},   {"sign-rsa2048", sign_rsa, 0},
    {"decrypt-rsa2048", decrypt_rsa, 0}, {"attributes", attributes, 0}, {"find-one", find_one, 1},
    {"find-all", find_all, 1},
};

/* A run. */

static struct thread {
    pthread_t thread;
    CK_SESSION_HANDLE session;
    const struct operation *operation;
    uint64_t limit, operations, nanoseconds;
    uint64_t samples[SAMPLES]; /* nanoseconds of the latest operations: a first search may take more than 32 bits hold */
    FILE *file;                /* of a trace */
    uint64_t failures;
} threads[THREADS];
static pthread_barrier_t barrier;

static void *work(void *argument)
{
    struct thread *self = argument;
    int (*once)(CK_SESSION_HANDLE) = self->operation->once;
    uint64_t count = 0;
    /* The first one binds handles and finds its places: what every later one is spared. */
    int good = self->operation->slow || once(self->session);
    pthread_barrier_wait(&barrier);
    uint64_t start = now(), before = start, after = start;
    while (good && (after - start < self->limit || !count)) {
        good = once(self->session);
        after = now();
        self->samples[count++ % SAMPLES] = after - before;
        before = after;
    }
    self->operations = count;
    self->nanoseconds = after - start;
    return NULL;
}

static int ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* Every operation is told, and one that fails ends nothing: whoever pulls plugs wants to know what follows. */
static void *tell(void *argument)
{
    struct thread *self = argument;
    self->failures += !self->operation->once(self->session);
    pthread_barrier_wait(&barrier);
    uint64_t first = now(), start = first;
    for (; start - first < self->limit; start = now()) {
        self->failures += !self->operation->once(self->session);
        fprintf(self->file, "%lu %lu\n", start, now() - start);
        self->operations++;
    }
    return NULL;
}

/* Lets threads do one kind of operation, each on its own session, and waits for them all. */
static int let_work(void *(*how)(void *), const char *name, int count, long milliseconds, const char *path)
{
    const struct operation *operation = NULL;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (strcmp(name, operations[i].name) == 0)
            operation = &operations[i];
    if (!operation || count < 1 || count > THREADS)
        return check("no such run", CKR_ARGUMENTS_BAD);
    for (int i = 0; i < count; i++)
        if (!threads[i].session &&
            !CALL(C_OpenSession, slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &threads[i].session))
            return 0;
    FILE *file = path ? fopen(path, "we") : NULL;
    if (path && !file)
        return check("no such file", CKR_ARGUMENTS_BAD);
    pthread_barrier_init(&barrier, NULL, (unsigned)count);
    for (int i = 0; i < count; i++) {
        threads[i].operation = operation;
        threads[i].limit = (uint64_t)milliseconds * 1000000u;
        threads[i].operations = threads[i].failures = 0;
        threads[i].file = file;
        if (pthread_create(&threads[i].thread, NULL, how, &threads[i]) != 0)
            abort();
    }
    for (int i = 0; i < count; i++)
        pthread_join(threads[i].thread, NULL);
    pthread_barrier_destroy(&barrier);
    return !file || fclose(file) == 0 || check("no room for the trace", CKR_HOST_MEMORY);
}

static int run(const char *name, int count, long milliseconds)
{
    static uint64_t all[THREADS * SAMPLES];
    size_t samples = 0;
    uint64_t done = 0, longest = 1;
    if (!let_work(work, name, count, milliseconds, NULL))
        return 0;
    for (int i = 0; i < count; i++) {
        done += threads[i].operations;
        if (threads[i].nanoseconds > longest)
            longest = threads[i].nanoseconds;
        size_t taken = threads[i].operations < SAMPLES ? threads[i].operations : SAMPLES;
        memcpy(all + samples, threads[i].samples, taken * sizeof *all);
        samples += taken;
    }
    if (failed || !samples)
        return 0;
    qsort(all, samples, sizeof *all, ascending);
    printf("ok %lu %lu %lu\n", done, longest, all[samples / 2]);
    return 1;
}

static int trace(const char *name, int count, long milliseconds, const char *path)
{
    uint64_t done = 0, failures = 0;
    if (!let_work(tell, name, count, milliseconds, path))
        return 0;
    for (int i = 0; i < count; i++) {
        done += threads[i].operations;
        failures += threads[i].failures;
    }
    atomic_store(&failed, NULL);
    printf("ok %lu %lu\n", done, failures);
    return 1;
}

static int idle_sessions(long count)
{
    static CK_SESSION_HANDLE *held;
    static long opened;
    CK_SESSION_HANDLE *more = count > opened ? realloc(held, (size_t)count * sizeof *held) : held;
    uint64_t start = now();
    long before = opened;
    if (count > opened && !more)
        return check("no memory", CKR_HOST_MEMORY);
    held = more;
    for (; opened < count; opened++)
        if (!CALL(C_OpenSession, slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &held[opened]))
            return 0;
    printf("ok %.3f\n", count > before ? (double)(now() - start) / 1e3 / (double)(count - before) : 0);
    return 1;
}

static int find_slot(void)
{
    CK_SLOT_ID slots[64];
    CK_ULONG count = 64;
    CK_TOKEN_INFO info;
    if (!CALL(C_GetSlotList, CK_TRUE, slots, &count))
        return 0;
    for (CK_ULONG i = 0; i < count; i++)
        if (p11->C_GetTokenInfo(slots[i], &info) == CKR_OK && strncmp((char *)info.label, label, strlen(label)) == 0 &&
            (strlen(label) == 32 || info.label[strlen(label)] == ' ')) {
            slot = slots[i];
            return 1;
        }
    return check("no such token", CKR_TOKEN_NOT_PRESENT);
}

static uint64_t loaded_at[3]; /* before, between and after the two */

static int load_module(void)
{
    CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
    CK_C_GetFunctionList get;
    loaded_at[0] = now();
    void *object = dlopen(module, RTLD_NOW | RTLD_LOCAL);
    if (!object || !(get = (CK_C_GetFunctionList)dlsym(object, "C_GetFunctionList")))
        return check("dlopen", CKR_GENERAL_ERROR);
    if (!check("C_GetFunctionList", get(&p11)))
        return 0;
    loaded_at[1] = now();
    if (!CALL(C_Initialize, &args))
        return 0;
    loaded_at[2] = now();
    return 1;
}

static void say_times(const uint64_t *at, int count)
{
    printf("ok");
    for (int i = 1; i < count; i++)
        printf(" %.1f", (double)(at[i] - at[i - 1]) / 1e3);
    printf("\n");
}

static int open_module(void)
{
    uint64_t at[5];
    if (!load_module())
        return 0;
    memcpy(at, loaded_at, sizeof loaded_at);
    if (!find_slot() || !CALL(C_OpenSession, slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &threads[0].session))
        return 0;
    at[3] = now();
    if (!CALL(C_Login, threads[0].session, CKU_USER, (CK_UTF8CHAR *)pin, strlen(pin)))
        return 0;
    at[4] = now();
    say_times(at, 5);
    return 1;
}

static int obey(char *line)
{
    char name[32], path[256];
    long number, milliseconds;
    if (strcmp(line, "open") == 0)
        return open_module();
    if (strcmp(line, "load") == 0) {
        if (!load_module())
            return 0;
        say_times(loaded_at, 3);
        return 1;
    }
    if (!p11)
        return check("not open", CKR_GENERAL_ERROR);
    if (sscanf(line, "trace %31s %ld %ld %255s", name, &number, &milliseconds, path) == 4)
        return trace(name, (int)number, milliseconds, path);
    if (sscanf(line, "run %31s %ld %ld", name, &number, &milliseconds) == 3)
        return run(name, (int)number, milliseconds);
    if (sscanf(line, "sessions %ld", &number) == 1)
        return idle_sessions(number);
    if ((strcmp(line, "keys") == 0 && have_keys(threads[0].session)) ||
        (sscanf(line, "fill %ld", &number) == 1 && fill(threads[0].session, number))) {
        printf("ok\n");
        return 1;
    }
    return check("not understood", CKR_FUNCTION_NOT_SUPPORTED);
}

int main(int argc, char **argv)
{
    char line[512];
    if (argc != 4)
        return 2;
    module = argv[1];
    label = argv[2];
    pin = argv[3];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = '\0';
        if (!obey(line)) {
            printf("no %s answered %#lx\n", atomic_load(&failed) ? atomic_load(&failed) : "nothing",
                   atomic_load(&failed_rv));
            atomic_store(&failed, NULL);
        }
        fflush(stdout);
    }
    if (p11)
        p11->C_Finalize(NULL);
    return 0;
}
