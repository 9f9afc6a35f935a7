/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The REST API: hypeman's contract on top of the instances' world.
 *
 * A request becomes a struct call: routed, authenticated, its scope checked, its
 * path decoded, its body parsed, its instance resolved. A handler owns the call
 * and answers it exactly once, at once or from a callback of the loop; answering
 * frees it. Handlers run on the loop and never block; what takes time is a
 * vm_op or a job.
 *
 * Every error has the contract's form {"code","message"}; a 409 that the same
 * request cannot cure says so with "x-should-retry: false", because the SDKs
 * would send it again twice.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "api/list.h"
#include "api/token.h"
#include "base/buf.h"
#include "base/err.h"
#include "http/server.h"
#include "vm/op.h"
#include "vm/world.h"

struct api_limits {
    uint64_t max_vcpus;
    uint64_t max_memory_bytes; /* of one instance, base and hotplug together */
    uint64_t max_overlay_bytes;
    int64_t stop_grace_ms;
    int64_t exec_grace_ms; /* SIGTERM to SIGKILL, for a command whose client has left */
    int64_t delete_grace_ms;
};

struct api {
    struct vm_world *world;
    const char *default_reason;              /* why it is the next */
    const struct vmm_driver *default_driver; /* NULL: this host can run none */
    const char *version;                     /* of this build */
    const char *secret;                      /* of the tokens' signatures */
    uid_t own_uid;
    gid_t admin_gid; /* members have full rights on the unix socket; -1: no such group */
    struct api_limits limits;
    struct lists lists;
};

enum { MAX_PATH_PARAMS = 2 };

struct call {
    struct api *api;
    struct http_request *http;
    char *params[MAX_PATH_PARAMS];    /* decoded */
    json_t *body;                     /* an object, or NULL when there was none */
    char subject[TOKEN_SUBJECT_SIZE]; /* who calls: the token's, or of the unix socket "uid 0" */
    struct instance *row;     /* of an instance's route: good for this turn of the loop only */
    atomic_bool is_abandoned; /* the client went away; see call_watch() */
};

struct route {
    const char *method;
    const char *path; /* "/instances/{id}/stop": {id} resolves an instance, {name} is any segment */
    uint32_t scopes;  /* what the caller must be allowed (api/token.h); 0: anybody */
    size_t max_body;
    void (*handle)(struct call *c);
};

extern const struct route api_routes[];
extern const size_t n_api_routes;

/* Before the first request; once the last is answered. */
void api_init(struct api *api);
void api_fini(struct api *api);

/* What the HTTP server is given; ctx is the struct api. */
void api_handle(void *ctx, struct http_request *req);
size_t api_body_limit(void *ctx, const char *method, const char *path);

/* --- answering: each frees the call --- */
void call_reply(struct call *c, int status, struct buf *json); /* takes the buffer's content */
void call_reply_empty(struct call *c, int status);
void call_fail(struct call *c, const struct err *e);
void call_fail_with(struct call *c, enum err_code code, const char *slug, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* From now on is_abandoned tells when the client goes away. The call must still be answered. */
void call_watch(struct call *c);

/* For a call whose request became a stream: frees the rest. */
void call_done(struct call *c);

/* 401 and 403; the contract's first family of errors. Sets the subject. */
int api_authorize(struct call *c, uint32_t scopes, struct err *e);

/* --- shapes --- */
/* What a POST /instances asks for; NULL and e. */
struct spec *spec_decode(const struct api *api, const json_t *body, struct err *e);

/* The members that this version does not carry out (api/spec_planned.c). */
int spec_refuse_planned(const json_t *body, struct err *e);

/* The network's part of it (api/spec_network.c). */
int spec_decode_network(const json_t *body, struct spec *s, struct err *e);

/* What a PATCH makes of it: a copy; NULL and e. */
struct spec *spec_decode_update(const struct spec *spec, const json_t *body, struct err *e);

/* Overrides of a start: a copy of the spec with another entrypoint or cmd; NULL with e unset
 * when the body changes nothing. */
struct spec *spec_decode_start(const struct spec *spec, const json_t *body, struct err *e);
