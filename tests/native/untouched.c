/* untouched MODULE: what a program can see of itself is the same before and after the interpreter's start. */
#include "host.h"

#include <dirent.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

extern char **environ;

struct view {
    struct sigaction actions[65];
    sigset_t mask;
    char locale[256], directory[4096];
    char **environment;
    char *first;
    size_t variables;
    int descriptors;
    mode_t umask;
};

static int descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int count = 0;

    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

static void look(struct view *view)
{
    memset(view, 0, sizeof *view);
    for (int i = 1; i < 65; i++)
        sigaction(i, NULL, &view->actions[i]);
    pthread_sigmask(SIG_SETMASK, NULL, &view->mask);
    strcpy(view->locale, setlocale(LC_ALL, NULL));
    CHECK(getcwd(view->directory, sizeof view->directory));
    view->environment = environ;
    view->first = environ ? environ[0] : NULL;
    for (char **variable = environ; variable && *variable; variable++)
        view->variables++;
    view->descriptors = descriptors();
    view->umask = umask(022);
    umask(view->umask);
}

int main(int argc, char **argv)
{
    static struct view before, after;
    void *handle;

    CHECK(argc == 2);
    look(&before);
    CK_FUNCTION_LIST *list = load(argv[1], &handle);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
    look(&after);
    for (int i = 1; i < 65; i++) {
        CHECK(before.actions[i].sa_handler == after.actions[i].sa_handler);
        CHECK(before.actions[i].sa_flags == after.actions[i].sa_flags);
        CHECK(sigismember(&before.mask, i) == sigismember(&after.mask, i));
    }
    CHECK(strcmp(before.locale, after.locale) == 0);
    CHECK(strcmp(before.directory, after.directory) == 0);
    CHECK(before.environment == after.environment && before.first == after.first);
    CHECK(before.variables == after.variables);
    CHECK(before.descriptors == after.descriptors);
    CHECK(before.umask == after.umask);
    return 0;
}
