/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>
#include <string.h>

#include "api/api.h"
#include "base/clock.h"

/*
 * Who may do what. Over TCP a token, always. On the unix socket the kernel tells
 * who is at the other end: root, the daemon's own user and members of its group
 * have full rights without one.
 */
static bool is_trusted(const struct api *api, const struct http_request *req)
{
    struct http_peer peer = http_peer(req);

    return peer.is_unix &&
           (peer.uid == 0 || peer.uid == api->own_uid ||
            (api->admin_gid != (gid_t)-1 && http_peer_in_group(req, api->admin_gid)));
}

int api_authorize(struct call *c, uint32_t scopes, struct err *e)
{
    struct token_claims claims;
    const char *token;
    uint32_t missing;

    if (scopes == 0)
        return 0;
    if (is_trusted(c->api, c->http)) {
        (void)snprintf(c->subject, sizeof(c->subject), "uid %u", (unsigned)http_peer(c->http).uid);
        return 0;
    }
    token = token_from_header(http_header(c->http, "Authorization"), e);
    if (!token || token_verify(token, c->api->secret, wall_us() / 1000000, &claims, e) < 0)
        return -1;
    memcpy(c->subject, claims.subject, sizeof(c->subject));
    missing = scopes & ~claims.scopes;
    if (!missing)
        return 0;
    return err_set(e,
                   ERR_DENIED,
                   "missing required scope: %s",
                   missing & SCOPE_UNLIMITED ? "*" : token_scope_name(missing & -missing));
}
