/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The byte stream between host and guest agent, one per VM.
 *
 * A frame is a header of 12 bytes, little-endian { u32 length, u8 type,
 * u8 flags, u16 zero, u32 stream }, then length bytes: JSON for control frames,
 * raw bytes for data. length is at most FRAME_MAX.
 *
 * No message boundary survives a reconnect or a restore, so every connection
 * begins with WIRE_MAGIC and a HELLO that carries a fresh nonce, from the host;
 * the guest answers with WIRE_MAGIC and a HELLO that repeats the nonce. Each
 * side drops what comes before. After its HELLO the guest reports its state
 * anew (STARTED, EXITED), so a report that was lost with a connection is not
 * lost. A magic where a frame should begin starts a new connection too: after a
 * restore neither side need have seen the old one end. One that falls into the
 * rest of a cut frame is swallowed with it, so a host that gets no HELLO back
 * closes, and tries again when the guest had time to see that.
 *
 * From version 2 on there are streams: one piece of work each (a command, a copy,
 * a question about a file), numbered by the host, any number at once. The host
 * begins one with FRAME_EXEC, FRAME_COPY_IN, FRAME_COPY_OUT or FRAME_STAT, the
 * guest ends it with FRAME_DONE, its last frame. FRAME_DATA, FRAME_ZEROS and
 * FRAME_ENTRY cost credit, one for each byte of content (of zeros: as many as
 * they stand for), so that a stream that is not read stops no other one: each
 * direction begins with the window below, and whoever has dealt with bytes gives
 * as much back by FRAME_CREDIT. The end of a connection ends its streams as
 * FRAME_CLOSE does. What comes for a stream that is over is dropped.
 *
 * Everything that comes from the guest is hostile: the reader caps lengths
 * before it stores a byte, and a frame it cannot accept ends the connection.
 *
 * Pure functions on buffers, shared by daemon and agent; nothing blocks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum {
    WIRE_VERSION = 3,
    WIRE_STREAMS =
        2, /* the first version with streams; a stored snapshot may hold an older agent */
    WIRE_HARD_LINKS = 3, /* the first that takes hard links in a copy */
    FRAME_HEADER = 12,
    FRAME_MAX = 64 * 1024,
    WIRE_MAGIC_LEN = 16,
    WIRE_VSOCK_PORT = 2222, /* where the agent listens in a VM that has a vsock device */
    WIRE_NONCE_LEN = 32,
};

extern const unsigned char wire_magic[WIRE_MAGIC_LEN];

enum frame_type {
    FRAME_HELLO = 1,    /* both ways; {"version":1,"nonce":"<32 hex digits>"} */
    FRAME_IDENTITY = 2, /* to the guest, first after HELLO; {"time_us","seed","hostname",...} */
    FRAME_STARTED = 3,  /* from the guest; {"at_us":N,"mode":"exec"|"systemd"} */
    FRAME_EXITED = 4,   /* from the guest; the exit record of wire/config_disk.h */
    FRAME_SHUTDOWN = 5, /* to the guest: end the workload, then the VM; {"grace_ms":N} */
    FRAME_FAILED = 6,   /* from the guest: it could not get to the workload; {"message":"..."} */
    FRAME_FREEZE = 7,   /* to the guest; {"serial":N}: the workload stands still. 0: it goes on,
                           which is not answered; IDENTITY does that as well */
    FRAME_FROZEN = 8,   /* from the guest; {"serial":N,"frozen":bool,"message":"why not"} */

    /* {"argv":[s],"env":[s],"cwd":s,"user":s,"tty":bool,"rows":N,"cols":N,"merge":bool,
     * "timeout_ms":N,"grace_ms":N}; in pieces, of which all but the last carry FRAME_MORE. */
    FRAME_EXEC = 16,
    FRAME_COPY_IN = 17, /* {"path":s}: the root. Entries, each with its data, then END_INPUT */
    FRAME_COPY_OUT =
        18,           /* {"path":s,"follow":bool,"hard_links":bool}: these as such, or as files */
    FRAME_STAT = 19,  /* {"path":s,"follow":bool}; one entry */
    FRAME_DATA = 20,  /* bytes; from the guest FRAME_STDERR says which */
    FRAME_ZEROS = 21, /* u32: as many zero bytes of a file */
    FRAME_ENTRY = 22, /* wire/entry.h */
    FRAME_END_INPUT = 23, /* to the guest: no more data or entries */
    FRAME_CREDIT = 24,    /* u32 */
    FRAME_RESIZE = 25,    /* to the guest: u32 rows, u32 columns */
    FRAME_SIGNAL = 26,    /* to the guest: u32, for the command's process group */
    FRAME_CLOSE = 27,     /* to the guest: nobody is there any more */

    /* {"code":N,"signal":N,"timed_out":bool,"oom":bool,"bytes":N,"errno":N,"error":s}; error only
     * when it failed. */
    FRAME_DONE = 28,
};

enum frame_flags { FRAME_STDERR = 1, FRAME_MORE = 1 };

enum {
    WINDOW_OF_COMMAND = 64 * 1024, /* its input, which PID 1 may have to keep */
    WINDOW_OUT_OF_COMMAND = 256 * 1024,
    WINDOW_OF_COPY = 512 * 1024, /* either way: what a busy host takes between two turns */
    /* What one FRAME_DATA is made to hold: streams take turns; a serial port takes 32 KiB at once.
     */
    FRAME_DATA_MAX = 32 * 1024 - FRAME_HEADER,
    EXEC_JSON_MAX = 2 * 1024 * 1024,
};

struct frame {
    uint8_t type;
    uint8_t flags;
    uint32_t stream;
    const unsigned char *data; /* in the reader's buffer: good until the next call on it */
    size_t len;
};

/* Appends a frame. Data longer than FRAME_MAX marks the buffer failed. */
void frame_put(struct buf *out, uint8_t type, uint32_t stream, const void *data, size_t len);

/* Only the header; the content follows by buf_append(). */
struct frame_head {
    uint8_t type;
    uint8_t flags;
    uint32_t stream;
    uint32_t len;
};
void frame_put_head(struct buf *out, struct frame_head head);

void frame_set_len(struct buf *out, size_t at, uint32_t len); /* of the header that is there */

/* Frames whose content is one number or two. */
void frame_put_u32(struct buf *out, uint8_t type, uint32_t stream, uint32_t v);
void frame_put_u32s(struct buf *out, uint8_t type, uint32_t stream, uint32_t a, uint32_t b);
uint32_t frame_u32(const struct frame *f, size_t index); /* 0 where there is none */
uint32_t frame_cost(const struct frame *f);              /* in credit */

/* What a stream begins with, by the frame that begins it. */
uint32_t window_to_guest(enum frame_type type);
uint32_t window_to_host(enum frame_type type);

/* Appends what opens a connection, from either side: the magic, and a HELLO with this nonce. */
void frame_put_hello(struct buf *out, const char *nonce);

struct frame_reader {
    struct buf in;     /* at most one frame and one read more */
    size_t taken;      /* bytes at the front that the caller has been given */
    bool synchronised; /* the magic has been seen */
    bool keeps_memory; /* also while nothing is half-read: in a guest, where faults cost most */
};

void frame_reader_init(struct frame_reader *r);
void frame_reader_free(struct frame_reader *r);
void frame_reader_reset(struct frame_reader *r); /* a new connection: wait for the magic again */

/*
 * After a refusal, for a side that cannot end the connection: what is there already stays, and is
 * searched for the next magic.
 */
void frame_reader_resync(struct frame_reader *r);

/*
 * Room for the next read: returns where, and how much in *room (0 only after a failure).
 * Take all frames (frame_next() returned 0) before asking for more.
 */
void *frame_reader_space(struct frame_reader *r, size_t *room);
void frame_reader_filled(struct frame_reader *r, size_t n);

/*
 * 1 and a frame, 0 when more bytes are needed, -1 when what came is not the protocol: then the
 * reader is of no use until a reset or resync. One that has nothing half-read holds no memory.
 */
int frame_next(struct frame_reader *r, struct frame *out, struct err *e);

/* The same for bytes that the caller keeps: of a frame that is there whole. */
int frame_at(const unsigned char *p, size_t have, struct frame *out, struct err *e);
void frame_set_stream(unsigned char *at, uint32_t stream); /* of the frame that begins there */
