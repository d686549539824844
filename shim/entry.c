/*
 * The way in: start of the interpreter, forks, and the crossing into Python.
 *
 * It runs inside programs that know nothing of Python, on their threads: it must never hang, never answer CKR_OK by
 * accident, and leave signals, environment, locale and the standard streams as they are.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "entry.h"
#include "paths.h" /* generated: the Python built for, where its library and our packages are */
#include "start.h" /* generated: shim/start.py as a string */

#ifdef Py_GIL_DISABLED
#define FREE_THREADED 1
#else
#define FREE_THREADED 0
#endif

_Static_assert(sizeof(sigset_t) <= PYHA_SIGNAL_MASK_SIZE, "PYHA_SIGNAL_MASK_SIZE");

PyMODINIT_FUNC PyInit__pyha(void);

enum { IDLE, READY, BROKEN };

static _Atomic int state = IDLE;
static _Atomic int initialized;
static _Atomic uint32_t forks;
static _Atomic int complained;
static pthread_once_t prepared = PTHREAD_ONCE_INIT;
static pthread_mutex_t creating = PTHREAD_MUTEX_INITIALIZER;
static char own_path[PATH_MAX];

/* For the application's operator, who has no other place to look: one line in the life of a process. */
static void complain(const char *format, const char *detail)
{
    char line[1024];
    int length;

    if (atomic_exchange(&complained, 1))
        return;
    length = snprintf(line, sizeof line - 1, format, detail);
    if (length < 0)
        return;
    if (length > (int)sizeof line - 2)
        length = (int)sizeof line - 2;
    for (int i = 0; i < length; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    line[length++] = '\n';
    while (write(STDERR_FILENO, line, (size_t)length) < 0 && errno == EINTR)
        ;
}

/* The path is taken when the object is loaded: one given relative to the current directory is right only then. */
__attribute__((constructor)) static void find_own_path(void)
{
    Dl_info info;

    if (!dladdr((void *)find_own_path, &info) || !realpath(info.dli_fname, own_path))
        own_path[0] = '\0';
}

const char *pyha_own_path(void)
{
    return own_path;
}

int pyha_is_secure(void)
{
    return getauxval(AT_SECURE) != 0;
}

uint32_t pyha_generation_of_fork(void)
{
    return atomic_load(&forks);
}

void pyha_set_initialized(int on)
{
    atomic_store(&initialized, on != 0);
}

int pyha_block_signals(uint8_t *saved)
{
    sigset_t all, before;
    int failed;

    sigfillset(&all);
    failed = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!failed)
        memcpy(saved, &before, sizeof before);
    return failed;
}

int pyha_restore_signals(const uint8_t *saved)
{
    sigset_t before;

    memcpy(&before, saved, sizeof before);
    return pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/*
 * A program that is itself a Python of another version lends us its symbols (it comes first in the search order),
 * and everything compiled against ours would then corrupt it. Asked before any other call into Python.
 */
static int same_python(void)
{
    const char *running = Py_GetVersion();
    int free_threaded = strstr(running, "free-threading") != NULL;

    if (strncmp(running, PYHA_PYTHON ".", sizeof PYHA_PYTHON) == 0 && free_threaded == FREE_THREADED)
        return 1;
    if (state != BROKEN) {
        atomic_store(&state, BROKEN);
        complain("pyha: this module was built for Python " PYHA_PYTHON " and cannot run in a program that is Python %.40s",
                 running);
    }
    return 0;
}

/* Forks. Another thread may hold the GIL: without these the child inherits a lock that nobody will release. */

enum { NOTHING, LOCKED, LOCKED_WITH_PYTHON };

static __thread int fork_holds;
static __thread PyGILState_STATE fork_gil;

static int python_is_usable(void)
{
#if PY_VERSION_HEX >= 0x030d0000
    return Py_IsInitialized() && !Py_IsFinalizing();
#else
    return Py_IsInitialized() && !_Py_IsFinalizing();
#endif
}

static void before_fork(void)
{
    fork_holds = NOTHING;
    /* Who holds the GIL is a Python program in its own os.fork(), which does all this itself; and waiting for the
     * mutex here would let it wait for a thread that has the mutex and waits for the GIL. */
    if (python_is_usable() && PyGILState_Check())
        return;
    pthread_mutex_lock(&creating);
    fork_holds = LOCKED;
    if (!python_is_usable())
        return;
    fork_gil = PyGILState_Ensure();
    PyOS_BeforeFork();
    fork_holds = LOCKED_WITH_PYTHON;
}

static void after_fork_in_parent(void)
{
    if (fork_holds == LOCKED_WITH_PYTHON) {
        PyOS_AfterFork_Parent();
        PyGILState_Release(fork_gil);
    }
    if (fork_holds != NOTHING)
        pthread_mutex_unlock(&creating);
}

static void after_fork_in_child(void)
{
    atomic_store(&initialized, 0);
    atomic_fetch_add(&forks, 1);
    /* Perhaps locked by a thread that does not exist here. */
    pthread_mutex_init(&creating, NULL);
    if (pyha_link_forked)
        pyha_link_forked();
    if (pyha_pins_forked)
        pyha_pins_forked();
    if (fork_holds == LOCKED_WITH_PYTHON) {
        PyOS_AfterFork_Child();
        PyGILState_Release(fork_gil);
    }
}

/* Start of the interpreter. */

static void prepare(void)
{
    Dl_info info;

    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    /* Extension modules leave Python's symbols to the global scope, but applications load us RTLD_LOCAL. */
    if (dladdr((void *)Py_GetVersion, &info))
        dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}

/* The program's own Python ended (Py_Finalize): what we left there is gone with it, and there is no second life. */
static void python_ended(void)
{
    atomic_store(&initialized, 0);
    atomic_store(&state, BROKEN);
}

/* PYHA_PACKAGES relative to our own directory, so that an installed package can be moved with its environment. */
static int find_packages(char *packages)
{
    char text[2 * PATH_MAX];
    char directory[PATH_MAX];
    char *slash;

    strcpy(directory, own_path);
    slash = strrchr(directory, '/');
    if (!slash)
        return 0;
    *slash = '\0';
    if (PYHA_PACKAGES[0] == '/')
        snprintf(text, sizeof text, "%s", PYHA_PACKAGES);
    else
        snprintf(text, sizeof text, "%s/%s", directory, PYHA_PACKAGES);
    return realpath(text, packages) != NULL;
}

static PyStatus add_path(PyConfig *config, const char *path)
{
    wchar_t *wide = Py_DecodeLocale(path, NULL);
    PyStatus status;

    if (!wide)
        return PyStatus_NoMemory();
    status = PyWideStringList_Append(&config->module_search_paths, wide);
    PyMem_RawFree(wide);
    return status;
}

#define TRY(step)                    \
    do {                             \
        status = (step);             \
        if (PyStatus_Exception(status)) \
            goto end;                \
    } while (0)

/* Everything is named here, so that neither environment variables nor files beside the program steer it. */
static PyStatus configure(PyConfig *config, const char *packages)
{
    static const char *const library[] = PYHA_LIBRARY;
    PyStatus status;

    config->site_import = 0;
    config->write_bytecode = 0;
    config->install_signal_handlers = 0;
    config->parse_argv = 0;
    config->pathconfig_warnings = 0;
    config->configure_c_stdio = 0;
    config->use_frozen_modules = 1;
    TRY(PyConfig_SetBytesString(config, &config->program_name, PYHA_EXECUTABLE));
    TRY(PyConfig_SetBytesString(config, &config->executable, PYHA_EXECUTABLE));
    TRY(PyConfig_SetBytesString(config, &config->base_executable, PYHA_EXECUTABLE));
    TRY(PyConfig_SetBytesString(config, &config->prefix, PYHA_PREFIX));
    TRY(PyConfig_SetBytesString(config, &config->base_prefix, PYHA_PREFIX));
    TRY(PyConfig_SetBytesString(config, &config->exec_prefix, PYHA_EXEC_PREFIX));
    TRY(PyConfig_SetBytesString(config, &config->base_exec_prefix, PYHA_EXEC_PREFIX));
    config->module_search_paths_set = 1;
    for (size_t i = 0; i < sizeof library / sizeof *library; i++)
        TRY(add_path(config, library[i]));
    TRY(add_path(config, packages));
end:
    return status;
}

static int create_interpreter(const char *packages)
{
    static const char *const library[] = PYHA_LIBRARY;
    char probe[PATH_MAX];
    PyPreConfig before;
    PyConfig config;
    PyStatus status;

    /* Without its library Python prints pages before it gives up. */
    snprintf(probe, sizeof probe, "%s/encodings/__init__.py", library[0]);
    if (access(probe, R_OK) != 0) {
        complain("pyha: cannot start Python: its library is not at %s", library[0]);
        return 0;
    }
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1; /* file names must not depend on the application's locale */
    PyConfig_InitIsolatedConfig(&config);
    TRY(Py_PreInitialize(&before));
    TRY(configure(&config, packages));
    TRY(Py_InitializeFromConfig(&config));
    PyEval_SaveThread();
end:
    if (PyStatus_Exception(status))
        complain("pyha: cannot start Python: %s", status.err_msg ? status.err_msg : "no reason given");
    PyConfig_Clear(&config);
    return !PyStatus_Exception(status);
}

static PyObject *create_extension(PyObject *self, PyObject *none)
{
    (void)self;
    (void)none;
    return PyInit__pyha();
}

/* Runs shim/start.py, which imports our Python part. With the GIL. */
static int import_entry(const char *packages, int shared)
{
    static PyMethodDef create = {"create_extension", create_extension, METH_NOARGS, NULL};
    static const char *const sites[] = PYHA_SITES;
    PyObject *code = NULL, *result = NULL, *problem = NULL, *names = NULL;
    int good = 0;

    names = Py_BuildValue("{s:N,s:N,s:s,s:s,s:s,s:i}", "create_extension", PyCFunction_New(&create, NULL), "SITES",
                          PyList_New(0), "PACKAGES", packages, "OWN_PATH", own_path, "ENTRY", PYHA_ENTRY, "SHARED", shared);
    if (!names || PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins()) < 0)
        goto end;
    for (size_t i = 0; i < sizeof sites / sizeof *sites && sites[i]; i++) {
        PyObject *site = PyUnicode_DecodeFSDefault(sites[i]);
        if (!site || PyList_Append(PyDict_GetItemString(names, "SITES"), site) < 0) {
            Py_XDECREF(site);
            goto end;
        }
        Py_DECREF(site);
    }
    code = Py_CompileString(PYHA_START, "<pyha start>", Py_file_input);
    if (code)
        result = PyEval_EvalCode(code, names, names);
    problem = result ? PyDict_GetItemString(names, "problem") : NULL;
    if (problem && PyUnicode_Check(problem)) {
        const char *text = PyUnicode_AsUTF8(problem);
        if (text)
            complain("pyha: %s", text);
    } else if (result) {
        good = 1;
    }
end:
    if (!good) {
        complain("pyha: cannot start: the start code failed%s", "");
        PyErr_Clear();
    }
    Py_XDECREF(names);
    Py_XDECREF(code);
    Py_XDECREF(result);
    return good;
}

static int start(void)
{
    char packages[PATH_MAX];
    int shared, good;

    if (atomic_load(&state) != IDLE)
        return atomic_load(&state) == READY;
    if (!same_python())
        return 0;
    pthread_once(&prepared, prepare);
    if (!find_packages(packages)) {
        complain("pyha: cannot start: the packages that belong to %s are not there", own_path);
        atomic_store(&state, BROKEN);
        return 0;
    }
    shared = Py_IsInitialized();
    if (!shared) {
        static int created; /* guarded by the mutex: a second thread may come here while the first is at it */

        pthread_mutex_lock(&creating);
        if (!created && !Py_IsInitialized() && atomic_load(&state) == IDLE) {
            created = create_interpreter(packages);
            if (!created)
                atomic_store(&state, BROKEN);
        }
        shared = !created;
        pthread_mutex_unlock(&creating);
        if (atomic_load(&state) == BROKEN)
            return 0;
    }
    PyGILState_STATE gil = PyGILState_Ensure();
    good = import_entry(packages, shared);
    if (good && atomic_load(&state) == IDLE)
        Py_AtExit(python_ended);
    if (atomic_load(&state) == IDLE)
        atomic_store(&state, good ? READY : BROKEN);
    PyGILState_Release(gil);
    return atomic_load(&state) == READY;
}

/* The crossing. */

CK_RV pyha_call(uint32_t index, void *arguments)
{
    uint64_t rv = PYHA_GENERAL_ERROR;

    if (!atomic_load_explicit(&initialized, memory_order_acquire))
        return atomic_load(&state) == BROKEN ? PYHA_GENERAL_ERROR : PYHA_CRYPTOKI_NOT_INITIALIZED;
    pyha_dispatch(index, arguments, &rv);
    return rv;
}

CK_RV pyha_call_initialize(uint32_t index, void *arguments)
{
    uint64_t rv = PYHA_GENERAL_ERROR;

    if (start())
        pyha_dispatch(index, arguments, &rv);
    return rv;
}

/* What needs no Python. The specification's defaults: no name or version means the newest. */

static char interface_name[] = "PKCS 11";
static CK_INTERFACE interfaces[] = {
    {(CK_CHAR *)interface_name, &pyha_functions_3_0, 0},
    {(CK_CHAR *)interface_name, &pyha_functions_2_40, 0},
};
#define INTERFACES (sizeof interfaces / sizeof *interfaces)

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
    if (!same_python())
        return PYHA_GENERAL_ERROR;
    if (!list)
        return PYHA_ARGUMENTS_BAD;
    *list = &pyha_functions_2_40;
    return PYHA_OK;
}

CK_RV C_GetInterfaceList(CK_INTERFACE_PTR list, CK_ULONG_PTR count)
{
    if (!same_python())
        return PYHA_GENERAL_ERROR;
    if (!count)
        return PYHA_ARGUMENTS_BAD;
    if (list && *count < INTERFACES) {
        *count = INTERFACES;
        return PYHA_BUFFER_TOO_SMALL;
    }
    if (list)
        memcpy(list, interfaces, sizeof interfaces);
    *count = INTERFACES;
    return PYHA_OK;
}

CK_RV C_GetInterface(CK_UTF8CHAR_PTR name, CK_VERSION_PTR version, CK_INTERFACE_PTR_PTR interface, CK_FLAGS flags)
{
    if (!same_python())
        return PYHA_GENERAL_ERROR;
    if (!interface || (name && strcmp((const char *)name, interface_name) != 0))
        return PYHA_ARGUMENTS_BAD;
    for (size_t i = 0; i < INTERFACES; i++) {
        const CK_VERSION *offered = interfaces[i].pFunctionList;
        if (version && (version->major != offered->major || version->minor != offered->minor))
            continue;
        if ((interfaces[i].flags & flags) != flags)
            continue;
        *interface = &interfaces[i];
        return PYHA_OK;
    }
    return PYHA_ARGUMENTS_BAD;
}
