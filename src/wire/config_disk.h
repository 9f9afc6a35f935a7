/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raw config disk: what the guest is to run, and the record of how it ended.
 *
 * Offset 0, one sector of 512 bytes: the exit record, zero until the guest writes
 * it, before it reports the exit over the agent channel; so an exit while the
 * daemon is down is not lost. { "HYPEXIT1", u32 length, JSON }.
 * Offset 4096: { "HYPCONF1", u32 length, JSON } with length up to CONFIG_MAX.
 * Numbers little-endian. The guest may write anything anywhere: the host reads
 * the exit record as hostile input and nothing else.
 *
 * Config JSON: {"incarnation":N,"hostname":s,"workdir":s,"user":s,
 *   "entrypoint":[s],"cmd":[s],"env":{k:v},"skip_agent":bool,
 *   "network":{"enabled":bool,"address":s,"prefix":N,"gateway":s,"gateway_mac":s,
 *              "dns":[s],"outer_address":s}}
 * Exit JSON: {"incarnation":N,"code":N,"signal":N,"oom":bool,"early":bool,"message":s,"at_us":N}
 *
 * Pure functions on buffers, shared by daemon and agent.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum {
    EXIT_SECTOR = 512,
    CONFIG_OFFSET = 4096,
    CONFIG_MAX = 1024 * 1024,
    EXIT_MESSAGE_MAX = 256,
};

/* How a workload ended. */
struct exit_record {
    uint64_t incarnation;
    int32_t code; /* as a shell reports it: 0..255, 128+n for signal n */
    int32_t signal;
    bool oom;
    bool is_early; /* of another init: it has begun to stop, its end is still to come */
    int64_t at_us; /* the guest's wall clock; a hint */
    char message[EXIT_MESSAGE_MAX + 1]; /* UTF-8 not guaranteed; escape when shown */
};

/* The whole image of a fresh config disk: empty exit sector, then the config. */
void config_disk_make(struct buf *out, const char *config_json, size_t len);

/* Finds the JSON in what was read from CONFIG_OFFSET on. */
int config_disk_find(const unsigned char *at_offset, size_t len, const char **json_out,
                     size_t *len_out, struct err *e);

/* The exit record as JSON (for FRAME_EXITED) and as a sector, whose message is cut to fit. */
void exit_record_json(struct buf *out, const struct exit_record *r);
void exit_sector_make(unsigned char out[EXIT_SECTOR], const struct exit_record *r);

/* 1 and the JSON in the sector, 0 when it is empty, -1 when it holds something else. */
int exit_sector_find(const unsigned char in[EXIT_SECTOR], const char **json_out, size_t *len_out,
                     struct err *e);

/*
 * The host's side, hostile input (exit_record.c; not in the agent, which has no jansson).
 * A code outside 0..255 or a signal outside 0..64 is refused, a message that is too long is cut.
 */
int exit_record_parse(const char *json, size_t len, struct exit_record *out, struct err *e);

/* exit_sector_find() and exit_record_parse() in one. */
int exit_sector_read(const unsigned char in[EXIT_SECTOR], struct exit_record *out, struct err *e);
