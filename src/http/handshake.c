/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <strings.h>

#include "http/private.h"
#include "http/websocket.h"

/* RFC 6455, 4.2.1: what a request must hold to become a WebSocket. */
struct handshake {
    bool wants_upgrade; /* "upgrade" among the words of Connection */
    bool is_websocket;  /* "websocket" among those of Upgrade */
    unsigned n_keys;
    unsigned n_versions;
    const char *key;
    const char *version;
};

static bool holds_word(const char *list, const char *word)
{
    size_t len = strlen(word);

    while (*list) {
        size_t n;

        list += strspn(list, " \t,");
        n = strcspn(list, " \t,");
        if (n == len && strncasecmp(list, word, n) == 0)
            return true;
        list += n;
    }
    return false;
}

static enum MHD_Result take_field(void *cls, enum MHD_ValueKind kind, const char *name,
                                  const char *value)
{
    struct handshake *h = cls;

    (void)kind;
    if (!value)
        return MHD_YES;
    if (strcasecmp(name, "Connection") == 0)
        h->wants_upgrade |= holds_word(value, "upgrade");
    else if (strcasecmp(name, "Upgrade") == 0)
        h->is_websocket |= holds_word(value, "websocket");
    else if (strcasecmp(name, "Sec-WebSocket-Key") == 0) {
        h->key = value;
        h->n_keys++;
    } else if (strcasecmp(name, "Sec-WebSocket-Version") == 0) {
        h->version = value;
        h->n_versions++;
    }
    return MHD_YES;
}

/* NULL when all is as it must be. */
static const char *what_is_wrong(const struct http_request *req, const struct handshake *h)
{
    if (strcmp(req->method, "GET") != 0 || !req->is_http11)
        return "a WebSocket begins with GET and HTTP/1.1";
    if (!h->wants_upgrade || !h->is_websocket)
        return "this is a WebSocket: send Connection: Upgrade and Upgrade: websocket";
    if (h->n_versions != 1 || strcmp(h->version, "13") != 0)
        return "Sec-WebSocket-Version must be 13";
    if (h->n_keys != 1 || !ws_key_is_valid(h->key))
        return "Sec-WebSocket-Key must be 16 bytes as base64, once";
    return NULL;
}

struct websocket *websocket_accept(struct http_request *req, const struct websocket_events *events,
                                   void *owner, struct err *e)
{
    struct handshake h = {0};
    char accept[WS_ACCEPT_SIZE];
    struct MHD_Response *response;
    struct websocket *w;
    const char *wrong;

    MHD_get_connection_values(req->mhd, MHD_HEADER_KIND, take_field, &h);
    wrong = what_is_wrong(req, &h);
    if (wrong) {
        http_add_header(req, "Sec-WebSocket-Version", "13");
        err_set(e, ERR_INVALID, "%s", wrong);
        return NULL;
    }
    if (req->server->is_stopping) {
        err_set(e, ERR_CANCELLED, "the daemon is shutting down");
        return NULL;
    }
    ws_accept_of(h.key, accept);
    w = websocket_new(req, events, owner);
    response = MHD_create_response_for_upgrade(websocket_upgraded, req);
    http_add_header(req, "Upgrade", "websocket");
    http_add_header(req, "Sec-WebSocket-Accept", accept);
    request_answer(req, 101, NULL, response);
    return w;
}
