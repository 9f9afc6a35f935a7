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
    WIRE_VERSION = 1,
    FRAME_HEADER = 12,
    FRAME_MAX = 64 * 1024,
    WIRE_MAGIC_LEN = 16,
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

/* Appends what opens a connection, from either side: the magic, and a HELLO with this nonce. */
void frame_put_hello(struct buf *out, const char *nonce);

struct frame_reader {
    struct buf in;     /* at most one frame and one read more */
    size_t taken;      /* bytes at the front that the caller has been given */
    bool synchronised; /* the magic has been seen */
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
