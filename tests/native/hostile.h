/* What the hostile module does; a call's first word says which. The other words: see there. */
#ifndef HOSTILE_H
#define HOSTILE_H

enum hostile {
    ANSWER,      /* rv = second word */
    MIX,         /* rv = sum of n * word n */
    SUM,         /* rv = sum of the bytes at [1], [2] of them */
    FILL,        /* writes [2] bytes of value [3] at [1] */
    PID,         /* rv = getpid() */
    INSPECT,     /* 0, or the number of the first thing that is not as a helper should find it */
    DESCRIPTORS, /* rv = one bit for each open descriptor below 64 */
    GETENV,      /* copies the value of the variable named at [1] to [2]; rv = its length, or ~0 */
    HANG,        /* never returns */
    GATE,        /* returns when [1] calls are or were inside */
    CRASH,       /* once [1] calls hang: dies in the way of enum death [2] */
    TRUNCATE,    /* cuts every shared mapping to nothing; rv = errno; 0 done; 1000 could not try */
    SCRIBBLE,    /* overwrites the head of the shared memory of which [1] is in, then hangs or ([2]) returns */
    CHILD,       /* leaves a child behind that holds every descriptor; rv = its pid */
    DEAFEN,      /* closes every descriptor above 2 */
    LAST,        /* once the helper's control socket is shut, and [2] ms later: one byte of 1 at [1] */
};

enum death { BY_SEGV, BY_ABORT, BY_EXIT, BY_STACK, BY_TRAP, BY_OTHER_THREAD, BY_KILL };

#endif
