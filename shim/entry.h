/*
 * The way in: what every exported C_ function calls, and what the entry offers to Python (entry.cdef).
 *
 * Knows how the interpreter is started and how a call crosses into it; knows nothing of what a call means.
 */
#ifndef PYHA_ENTRY_H
#define PYHA_ENTRY_H

#include <stdint.h>

#include "cryptoki.h"

/* The Cryptoki functions this part answers itself or has to know of (PKCS #11 3.0, section 5.4). */
#define PYHA_OK 0x00UL
#define PYHA_GENERAL_ERROR 0x05UL
#define PYHA_ARGUMENTS_BAD 0x07UL
#define PYHA_BUFFER_TOO_SMALL 0x150UL
#define PYHA_CRYPTOKI_NOT_INITIALIZED 0x190UL

/* Bytes that pyha_block_signals() needs to save a signal mask. */
#define PYHA_SIGNAL_MASK_SIZE 128

/*
 * Hands a call to Python. `index`: position in the table; `arguments`: its struct pyha_args_C_Xxx.
 * Without a successful C_Initialize nothing is read and no Python runs: CKR_CRYPTOKI_NOT_INITIALIZED, or
 * CKR_GENERAL_ERROR where the interpreter could not be started.
 */
CK_RV pyha_call(uint32_t index, void *arguments);

/* The same for a function that may go the straight way (straight.h). */
CK_RV pyha_call_straight(uint32_t index, void *arguments);

/* The same for C_Initialize: starts the interpreter first, once in a process. */
CK_RV pyha_call_initialize(uint32_t index, void *arguments);

/* Written in Python (pyha/entry.py). `rv` comes in as CKR_GENERAL_ERROR: what raises is never CKR_OK. */
extern void pyha_dispatch(uint32_t index, void *arguments, uint64_t *rv);

/* Opens (1) or shuts (0) the way to Python for all functions but C_Initialize. A forked child starts with 0. */
void pyha_set_initialized(int on);

/* How many forks lie between the process that loaded the module and this one, on the child's side. */
uint32_t pyha_generation_of_fork(void);

/* 1 in a setuid or setgid program (AT_SECURE): the environment is then not to be trusted. */
int pyha_is_secure(void);

/* Absolute path of the loaded shared object, symbolic links resolved. */
const char *pyha_own_path(void);

/*
 * Blocks every signal in the calling thread and saves the former mask (PYHA_SIGNAL_MASK_SIZE bytes), so that a
 * thread started in between inherits a full mask: an application's handlers must never run on our threads.
 * 0, or an errno.
 */
int pyha_block_signals(uint8_t *saved);
int pyha_restore_signals(const uint8_t *saved);

/* Generated from the table (functions.c). */
extern CK_FUNCTION_LIST pyha_functions_2_40;
extern CK_FUNCTION_LIST_3_0 pyha_functions_3_0;

#endif
