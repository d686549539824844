/*
 * Starting a helper program that the application never sees as a child of its own.
 *
 * Knows processes and descriptors; nothing of links or modules.
 */
#ifndef PYHA_SPAWN_H
#define PYHA_SPAWN_H

/*
 * Runs `path` with `argv` and `envp`; its descriptors: 0 and 1 are /dev/null, 2 the application's, then `control`,
 * `application` and `life` at their fixed numbers (protocol.h), none else. 0 and its pidfd, or an errno. The caller holds the
 * guard (guard.h): signals are blocked, and no fork can see the descriptors half opened.
 */
int pyha_spawn(int *pidfd, const char *path, char *const argv[], char *const envp[], int control, int application,
               int life);

#endif
