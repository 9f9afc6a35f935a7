/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work inside a guest: commands, copies, questions about files.
 *
 * Each piece of work is a stream of its own over the one connection to the
 * guest's agent. Loop thread; nothing blocks; nothing calls back from within a
 * function of this header.
 *
 * Who owns: the caller owns the stream it was given and ends it with
 * guest_close(), exactly once, also after ended(). Closing earlier means that the
 * client is gone: the guest ends the command (with a terminal by SIGHUP; else its
 * stdin closes, then SIGTERM, then SIGKILL after the grace), a copy just stops.
 * No callback comes after guest_close(), which any callback may call. ended() is
 * the last callback and comes once, unless the stream was closed first. Rows may
 * go away meanwhile: a VM that sleeps, stops or is deleted ends its streams with
 * an error that says so. A stream never outlives the world.
 *
 * Back-pressure, both ways. Towards the caller: at most GUEST_WINDOW bytes (of a copy:
 * GUEST_COPY_WINDOW) come through data() and entry() that the caller has not yet given back with
 * guest_consumed(), so what a caller must hold is bounded by that, and one that reads nothing stops
 * nobody else. Towards the guest: guest_write() and guest_put_entry() take what there
 * is room for (possibly nothing); writable() is called when there is room again
 * after one of them has taken less than it was given.
 *
 * Until the agent has greeted (a guest that boots, or has just been restored) a
 * stream waits for it, no longer than wait_ms.
 *
 * The guest is hostile: names, sizes and modes that come from it may be anything
 * within the limits below, and the caller checks them before use. Names are bytes,
 * not UTF-8.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/entry.h"

struct instance;
struct guest_stream;

enum {
    GUEST_WINDOW = 256 * 1024, /* bytes that one stream may have under way to its caller */
    GUEST_COPY_WINDOW = 512 * 1024,
    GUEST_WAIT_MS = 10 * 1000,       /* for an agent that has not greeted, where nobody says */
    GUEST_COMMAND_MAX = 1024 * 1024, /* bytes of a command, its environment and directory */
    GUEST_STREAMS_MAX = 512,         /* in one VM at a time */
    GUEST_EXIT_NOT_STARTED = 127,    /* as a shell reports it */
};

enum guest_channel { GUEST_STDOUT, GUEST_STDERR };

struct guest_end {
    bool ok;    /* a command: it ran and has ended; else all was done */
    int code;   /* of a command: as a shell reports it, 128+n for a signal, 124 for the timeout,
                   126 or 127 when it could not be started (then ok is false) */
    int signal; /* that ended the command; 0 for none */
    bool timed_out;
    bool out_of_memory; /* the guest's kernel killed it for that, as far as one can tell */
    uint64_t bytes;     /* of files' content: written by a copy in, sent by a copy out */
    struct err err; /* when not ok. Code: ERR_NOT_FOUND no such file or program, ERR_BAD_STATE the
                       VM stopped, sleeps or is gone, ERR_TIMEOUT the agent did not answer */
};

/* Each may be NULL. */
struct guest_events {
    /* Bytes of the command, or of the file of the last entry(). */
    void (*data)(void *owner, enum guest_channel from, const void *data, size_t len);
    void (*entry)(void *owner, const struct guest_entry *entry); /* copy out, stat */
    void (*writable)(void *owner);
    void (*ended)(void *owner, const struct guest_end *end);
};

/* All of it is borrowed for the call. */
struct guest_command {
    const char *const *argv; /* NULL-terminated, at least one */
    const char *const
        *env;         /* "KEY=value", NULL-terminated; NULL for none. Over the workload's own */
    const char *cwd;  /* NULL or "": the image's working directory */
    const char *user; /* NULL or "": root, as the clients know it; else "name[:group]", ids */
    bool is_terminal;
    uint16_t rows, cols; /* 0: 24 and 80 */
    bool merge_stderr;   /* one pipe for both, so their order is kept: all comes as GUEST_STDOUT */
    int64_t timeout_ms;  /* 0: none */
    int64_t
        grace_ms; /* SIGTERM to SIGKILL, when the client is gone or the time is over; 0: at once */
    int64_t wait_ms; /* 0: GUEST_WAIT_MS */
};

/*
 * Whether a client may ask for any of it: the VM runs and its agent was not left
 * out. ERR_BAD_STATE with the contract's "instance must be running (current
 * state: X)".
 */
int guest_check(const struct instance *row, struct err *e);

/*
 * Each begins one piece of work, or returns NULL: ERR_BAD_STATE (no running VM,
 * or an agent that was left out or is too old), ERR_LIMIT, ERR_TOO_LARGE, ERR_INVALID.
 */
struct guest_stream *guest_exec(struct instance *row, const struct guest_command *command,
                                const struct guest_events *events, void *owner, struct err *e);

/*
 * Into the guest. Entries are below root (which is made, parents too, when it is
 * missing) and are resolved as if root were "/", so none gets out of it; plain
 * `to` of the contract is root "/" and one entry. guest_put_entry(), then the file's
 * content by guest_write(), then the next guest_put_entry() or guest_end_input();
 * then wait for ended(). Parents that are missing are made with 0755; an existing
 * file is emptied first; a file onto a directory, or the reverse, is refused.
 * Runs of zeros become holes.
 */
struct guest_stream *guest_copy_in(struct instance *row, const char *root,
                                   const struct guest_events *events, void *owner, struct err *e);

struct guest_tree {
    const char *path; /* borrowed for the call */
    bool follow_links;
    bool hard_links; /* entries of their own, if the agent knows them; else they come as files */
};

/*
 * Out of the guest: entry() for each, parents first, sorted by name; data() for a
 * file's content, all of it before the next entry(). The first component of every
 * path is the base name of what was asked for. Devices, sockets and pipes are
 * left out. A file that shrinks meanwhile just ends early; one that grows is cut
 * at the size that entry() said.
 */
struct guest_stream *guest_copy_out(struct instance *row, const struct guest_tree *tree,
                                    const struct guest_events *events, void *owner, struct err *e);

/* One entry() for what is there, then ended(); ERR_NOT_FOUND when nothing is. */
struct guest_stream *guest_stat(struct instance *row, const char *path, bool follow_links,
                                const struct guest_events *events, void *owner, struct err *e);

/* How many bytes were taken: stdin of a command, or the content of the entry. 0 after its end. */
size_t guest_write(struct guest_stream *s, const void *data, size_t len);

/*
 * False when there is no room for it now. Names within GUEST_NAME_MAX, the target of a link too. A
 * hard link ends the stream (ERR_UNSUPPORTED) where the agent is too old for it.
 */
bool guest_put_entry(struct guest_stream *s, const struct guest_entry *entry);

/* Nothing more comes: stdin ends (with a terminal: nothing happens), or the copy is complete.
 * Always taken. */
void guest_end_input(struct guest_stream *s);

/* Of what came through data(), and the cost of an entry() that has been passed on. */
void guest_consumed(struct guest_stream *s, size_t len);
void guest_resize(struct guest_stream *s, uint16_t rows, uint16_t cols);
void guest_signal(struct guest_stream *s, int signal); /* to the command's process group */
void guest_close(struct guest_stream *s);              /* NULL is fine */
