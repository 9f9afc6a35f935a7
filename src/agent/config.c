/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/config.h"

#include <string.h>

#include "agent/jread.h"
#include "base/cleanup.h"

static void read_env(struct jread *j, struct argv *to)
{
    jread_object(j);
    for (char *key; (key = jread_key(j)); free(key)) {
        auto_free char *value = jread_str(j);

        if (value)
            argv_pushf(to, "%s=%s", key, value);
    }
}

static void read_network(struct jread *j, struct guest_network *n)
{
    jread_object(j);
    for (char *key; (key = jread_key(j)); free(key)) {
        if (strcmp(key, "enabled") == 0)
            n->enabled = jread_bool(j);
        else if (strcmp(key, "address") == 0)
            jread_text(j, &n->address);
        else if (strcmp(key, "prefix") == 0)
            n->prefix = (unsigned)jread_int(j);
        else if (strcmp(key, "gateway") == 0)
            jread_text(j, &n->gateway);
        else if (strcmp(key, "gateway_mac") == 0)
            jread_text(j, &n->gateway_mac);
        else if (strcmp(key, "outer_address") == 0)
            jread_text(j, &n->outer_address);
        else if (strcmp(key, "dns") == 0)
            jread_list(j, &n->dns);
        else
            jread_skip(j);
    }
}

static void read_member(struct jread *j, const char *key, struct guest_config *c)
{
    if (strcmp(key, "incarnation") == 0)
        c->incarnation = (uint64_t)jread_int(j);
    else if (strcmp(key, "hostname") == 0)
        jread_text(j, &c->hostname);
    else if (strcmp(key, "workdir") == 0)
        jread_text(j, &c->workdir);
    else if (strcmp(key, "user") == 0)
        jread_text(j, &c->user);
    else if (strcmp(key, "entrypoint") == 0)
        jread_list(j, &c->entrypoint);
    else if (strcmp(key, "cmd") == 0)
        jread_list(j, &c->cmd);
    else if (strcmp(key, "env") == 0)
        read_env(j, &c->env);
    else if (strcmp(key, "skip_agent") == 0)
        c->skip_agent = jread_bool(j);
    else if (strcmp(key, "network") == 0)
        read_network(j, &c->network);
    else
        jread_skip(j);
}

int guest_config_parse(const char *json, size_t len, struct guest_config *out, struct err *e)
{
    auto_guest_config struct guest_config c = {0};
    struct jread j = JREAD(json, len);

    jread_object(&j);
    for (char *key; (key = jread_key(&j)); free(key))
        read_member(&j, key, &c);
    if (!jread_done(&j))
        return err_set(e, ERR_INVALID, "the config disk's JSON is not what was agreed");
    *out = c;
    c = (struct guest_config){0};
    return 0;
}

void guest_config_free(struct guest_config *c)
{
    free(c->hostname);
    free(c->workdir);
    free(c->user);
    argv_free(&c->entrypoint);
    argv_free(&c->cmd);
    argv_free(&c->env);
    free(c->network.address);
    free(c->network.gateway);
    free(c->network.gateway_mac);
    free(c->network.outer_address);
    argv_free(&c->network.dns);
    *c = (struct guest_config){0};
}
