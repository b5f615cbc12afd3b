/*
 * The doorbell (triggers/doorbell.sql, dispatcher/stages/doorbell/wake.py) as a Promela model: does a committed row ever wait for
 * the tick while a listener is up? tests/model/ is the same model in Python; read docs/explanation/architecture.md first.
 *
 *   apt-get install spin gcc
 *   spin -DNW=2 -DND=2 -run -safety -m100000 doorbell.pml             "errors: 0" is what we want to see
 *   spin -DNW=1 -DND=1 -DNO_SECOND_CHECK -run -safety doorbell.pml    the same without the second due check: "errors: 1"
 *   spin -DNW=1 -DND=1 -DNO_SECOND_CHECK -t -p -g doorbell.pml        ... and the steps that led there
 *
 * NW: writers, 1 to 3. ND: dispatchers, 1 or 2. One of these leaves a part of the protocol out:
 *   NO_SECOND_CHECK         wait on what doze.sql saw, which is older than K
 *   DRAIN_AFTER_CHECK       throw notices away after the due check instead of before
 *   RING_NOT_READ           wait for the socket without reading what came with an answer
 *   LISTEN_AFTER_CHECK      the due check, then LISTEN
 *   RECONNECT_IS_NO_WAKE_UP go on waiting when the session is back
 *   KEY_FREED_TOO_EARLY     the writer frees K before its row is visible
 *   SAVEPOINT_USES_UP_RING  the mark "rang" outlives the savepoint that set it
 */
#ifndef NW
#define NW 2
#endif
#ifndef ND
#define ND 1
#endif

mtype = { up, broken, down };               /* a session; broken: gone, and the program has not noticed */
mtype = { asleep, writers, peer };          /* the answer of doze.sql */

bool row[3];                                /* visible and unclaimed */
bool over[3];                               /* the writer's COMMIT has returned */
bool exclusive[2];                          /* K, as Postgres knows it */
byte shared;                                /* how many hold K shared */
bool probing[2];                            /* ... of which dispatchers, for an instant inside doze.sql */

mtype session[2] = up;
bool fresh[2];                              /* wait() has not seen this session yet */
bool listening[2];
bool socket[2];                             /* a ring on the socket */
bool notices[2];                            /* a ring that came with an answer */
bool tick_only[2];                          /* waits; neither the pause for writers nor a poll ends it */

#define KEY_TAKEN    (exclusive[0] || exclusive[1])
#define A_ROW        (row[0] || row[1] || row[2])
#define ROW_WAITS    ((row[0] && over[0]) || (row[1] && over[1]) || (row[2] && over[2]))
#define DEAF_TO_IT(d) (d >= ND || (session[d] == up && tick_only[d] && !socket[d]))

/* ---- triggers/doorbell.sql and the steps of Postgres's commit ---- */

proctype writer(byte me) {
    bool rung, silent, notifies;

    atomic {                                /* nobody sees anything of a writer before its commit: one step */
        if
        :: skip
        :: KEY_TAKEN -> rung = true;        /* rings in a savepoint, after SET CONSTRAINTS ... IMMEDIATE ... */
#ifndef SAVEPOINT_USES_UP_RING
           rung = false                     /* ... and rolls back to it */
#endif
        fi
    }
    atomic {                                /* ring_doorbell(), deferred to the commit */
        if
        :: !rung && KEY_TAKEN -> notifies = true
        :: !rung && !KEY_TAKEN -> silent = true; shared++
        :: rung
        fi
    }
#ifdef KEY_FREED_TOO_EARLY
    atomic { if :: silent -> shared--; silent = false :: else fi }
#endif
    if
    :: atomic { row[me] = true; over[me] = !silent && !notifies }
    :: atomic { if :: silent -> shared-- :: else fi; goto aborted }
    fi;
    if
    :: atomic { silent -> shared--; over[me] = true }
    :: atomic {
        notifies -> over[me] = true;
        if :: listening[0] -> socket[0] = true :: else fi;
        if :: listening[1] -> socket[1] = true :: else fi
       }
    :: !silent && !notifies
    fi;
aborted:
    skip
}

/* ---- dispatcher/stages/doorbell/wake.py ---- */

/* Every use of the session finds out when it broke. */
#define USE_SESSION     if :: session[me] == broken -> goto session_lost :: else fi
/* With an answer, rings leave the socket for the list of notices. */
#define READ_ANSWER     notices[me] = notices[me] || socket[me]; socket[me] = false

proctype dispatcher(byte me) {
    bool holds_key, listens, due;
    mtype position = asleep;

claim:
    atomic { tick_only[me] = false; row[0] = false; row[1] = false; row[2] = false }

wait:
    if
    :: atomic { fresh[me] -> fresh[me] = false; goto claim }            /* "reconnect" */
    :: atomic { !fresh[me] && session[me] == down -> tick_only[me] = true; goto tick_pause }
    :: atomic { !fresh[me] && session[me] != down && holds_key ->       /* release(), rows come fast */
        USE_SESSION; holds_key = false; exclusive[me] = false; goto wait }
    :: atomic { !fresh[me] && session[me] != down && !holds_key -> goto claim }     /* polling: a pause, a claim */
    :: atomic { !fresh[me] && session[me] != down -> skip }
    fi;

drain_notifications:
    atomic {
        USE_SESSION;
#ifndef DRAIN_AFTER_CHECK
        socket[me] = false; notices[me] = false;
#endif
        if :: holds_key && listens -> goto due_check :: holds_key && !listens -> goto listen :: else fi
    }

    /* doze.sql: the snapshot, K exclusively, K shared, the answer */
    atomic { USE_SESSION; due = A_ROW }
    atomic {
        USE_SESSION;
        if
        :: !KEY_TAKEN && shared == 0 -> exclusive[me] = true; position = asleep; goto doze_answer
        :: else
        fi
    }
    atomic {
        USE_SESSION;
        if
        :: KEY_TAKEN -> position = peer
        :: else -> position = writers; shared++; probing[me] = true
        fi
    }
doze_answer:
    atomic {
        USE_SESSION; READ_ANSWER;
        if :: probing[me] -> shared--; probing[me] = false :: else fi;
        if
        :: position == asleep -> holds_key = true
        :: position == peer && listens -> goto unlisten
        :: else -> goto decide
        fi;
#ifdef LISTEN_AFTER_CHECK
        goto due_check
#else
        if :: listens -> goto due_check :: else fi
#endif
    }

listen:
    atomic {
        USE_SESSION; READ_ANSWER; listening[me] = true; listens = true;
#ifdef LISTEN_AFTER_CHECK
        goto decide
#endif
    }

due_check:
    atomic {
        USE_SESSION;
#ifndef NO_SECOND_CHECK
        due = A_ROW
#endif
    }
    atomic {
        USE_SESSION; READ_ANSWER; position = asleep;
        if :: !listens -> goto listen :: else -> goto decide fi
    }

unlisten:
    atomic { USE_SESSION; READ_ANSWER; listening[me] = false; listens = false }

decide:
    atomic { if :: due -> due = false; goto woken :: else fi }

    /* _listen(): before waiting too, read what has come. A ping to ourselves may take a ring off the socket. */
    atomic { USE_SESSION; if :: READ_ANSWER :: skip fi }
    atomic {
        USE_SESSION;
#ifdef DRAIN_AFTER_CHECK
        socket[me] = false; notices[me] = false;
#else
#ifndef RING_NOT_READ
        if :: socket[me] || notices[me] -> goto woken :: else fi;
#endif
#endif
        tick_only[me] = (position != writers)
    }

    if                                                                  /* wait_readable() */
    :: atomic { session[me] == broken -> tick_only[me] = false; goto session_lost }
    :: atomic { session[me] == up && socket[me] -> tick_only[me] = false; goto woken }
    :: atomic { session[me] == up -> tick_only[me] = false; goto drain_notifications }    /* the pause for writers, or the tick */
    fi;

woken:
    atomic { socket[me] = false; notices[me] = false; goto claim }

session_lost:
    atomic {
        session[me] = down; holds_key = false; listens = false; notices[me] = false; due = false;
        goto claim
    }

tick_pause:
    if
#ifndef RECONNECT_IS_NO_WAKE_UP
    :: atomic { session[me] == up -> goto claim }                       /* nudged: the link is up */
#endif
    :: goto claim                                                       /* the tick */
    fi
}

/* ---- what befalls a session ---- */

proctype network(byte me) {
end:
    do
    :: atomic { session[me] == up ->
        session[me] = broken; exclusive[me] = false; listening[me] = false; socket[me] = false;
        if :: probing[me] -> shared--; probing[me] = false :: else fi }
    :: atomic { session[me] == down ->
        session[me] = up;
#ifdef RECONNECT_IS_NO_WAKE_UP
        skip
#else
        fresh[me] = true;
        tick_only[me] = false                                           /* the nudge ends a pause without a session */
#endif
        }
    od
}

/* ---- the promise ---- */

active proctype monitor() {
end:
    atomic { ROW_WAITS && DEAF_TO_IT(0) && DEAF_TO_IT(1) -> assert(false) }     /* only the tick would find the row */
}

init {
    byte n;
    atomic {
        for (n : 0 .. NW - 1) { run writer(n) }
        for (n : 0 .. ND - 1) { run dispatcher(n); run network(n) }
    }
}
