/* SPDX-License-Identifier: Apache-2.0 */
#include "net/firewall.h"

#include <string.h>

#include "base/json.h"
#include "net/rules.h"

#define OUR_COMMENT "hypeman"
#define DOCKERS_CHAIN "DOCKER-USER" /* in "ip filter", jumped to first in FORWARD */

enum { LIST_MAX = 16 << 20, COMMAND_MAX = 512 };

struct chain {
    const char *family;
    const char *table;
    const char *name;
};

static json_t *ask(const char *command, struct err *e)
{
    auto_buf struct buf out = BUF(LIST_MAX);
    json_auto_t *doc = NULL;

    if (rules_ask(command, &out, e) < 0)
        return NULL;
    doc = parse_json(buf_str(&out), out.len, e);
    return doc ? json_incref(json_object_get(doc, "nftables")) : NULL;
}

static const char *text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

static struct chain chain_of(const json_t *o)
{
    return (struct chain){text(o, "family"), text(o, "table"), text(o, "name")};
}

static json_t *rules_of(const struct chain *c, struct err *e)
{
    char command[COMMAND_MAX];

    (void)snprintf(command, sizeof(command), "list chain %s %s %s", c->family, c->table, c->name);
    return ask(command, e);
}

/* The verdict of a rule that asks nothing about the packet; NULL for any other. */
static const char *unconditional(const json_t *rule)
{
    const json_t *expressions = json_object_get(rule, "expr");
    const json_t *one;
    const char *verdict = NULL;
    size_t i;

    json_array_foreach(expressions, i, one)
    {
        if (json_object_get(one, "drop") || json_object_get(one, "reject"))
            verdict = "drop";
        else if (!json_object_get(one, "counter") && !json_object_get(one, "log"))
            return NULL;
    }
    return verdict;
}

static bool drops_in_the_end(const json_t *chain, const json_t *listed)
{
    const json_t *one;
    const json_t *last = NULL;
    size_t i;

    if (strcmp(text(chain, "policy"), "drop") == 0)
        return true;
    json_array_foreach(listed, i, one)
    {
        if (json_object_get(one, "rule"))
            last = json_object_get(one, "rule");
    }
    return last && unconditional(last);
}

/* Whether a rule accepts all that comes from our TAPs (iifname), or goes to them (oifname). */
static bool accepts(const json_t *rule, const char *key)
{
    const json_t *expressions = json_object_get(rule, "expr");
    const json_t *one;
    bool matches = false;
    bool accepted = false;
    size_t i;

    json_array_foreach(expressions, i, one)
    {
        const json_t *match = json_object_get(one, "match");
        const json_t *meta = json_object_get(json_object_get(match, "left"), "meta");

        if (match && strcmp(text(meta, "key"), key) == 0 && strcmp(text(match, "op"), "==") == 0 &&
            strcmp(text(match, "right"), NET_TAPS "*") == 0)
            matches = true;
        else if (match)
            return false;
        accepted = accepted || json_object_get(one, "accept");
    }
    return matches && accepted;
}

static bool any_accepts(const json_t *listed, const char *key)
{
    const json_t *one;
    size_t i;

    json_array_foreach(listed, i, one)
    {
        if (accepts(json_object_get(one, "rule"), key))
            return true;
    }
    return false;
}

/* Where our two rules belong for a forward hook: Docker's own place for it, else its beginning. */
static struct chain place_for(const struct chain *hook, const json_t *chains)
{
    const json_t *one;
    size_t i;

    json_array_foreach(chains, i, one)
    {
        struct chain c = chain_of(json_object_get(one, "chain"));

        if (strcmp(c.name, DOCKERS_CHAIN) == 0 && strcmp(c.table, hook->table) == 0 &&
            strcmp(c.family, hook->family) == 0)
            return c;
    }
    return *hook;
}

static int open_chain(const struct chain *place, bool opens, struct buf *commands, struct err *e)
{
    static const char *const keys[] = {"iifname", "oifname"};
    json_auto_t *listed = rules_of(place, e);
    char command[COMMAND_MAX];

    if (!listed)
        return -1;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (any_accepts(listed, keys[i]))
            continue;
        (void)snprintf(command,
                       sizeof(command),
                       "insert rule %s %s %s %s \"" NET_TAPS "*\" counter accept comment \"%s\"",
                       place->family,
                       place->table,
                       place->name,
                       keys[i],
                       OUR_COMMENT);
        if (!opens)
            buf_printf(commands, "%snft '%s'", commands->len ? "; " : "", command);
        else if (rules_run(command, e) < 0)
            return -1;
    }
    return 0;
}

static bool is_forward_hook(const json_t *chain)
{
    const char *family = text(chain, "family");

    return strcmp(text(chain, "hook"), "forward") == 0 &&
           strcmp(text(chain, "type"), "filter") == 0 &&
           (strcmp(family, "ip") == 0 || strcmp(family, "inet") == 0) &&
           strncmp(text(chain, "table"), RULES_TABLE, strlen(RULES_TABLE)) != 0;
}

int firewall_check(bool opens, struct buf *commands, struct err *e)
{
    json_auto_t *chains = ask("list chains", e);
    const json_t *one;
    size_t i;

    if (!chains)
        return -1;
    json_array_foreach(chains, i, one)
    {
        const json_t *chain = json_object_get(one, "chain");
        struct chain hook = chain_of(chain);
        struct chain place;
        json_auto_t *listed = NULL;

        if (!is_forward_hook(chain))
            continue;
        listed = rules_of(&hook, e);
        if (!listed)
            return -1;
        place = place_for(&hook, chains);
        if (drops_in_the_end(chain, listed) && open_chain(&place, opens, commands, e) < 0)
            return -1;
    }
    return 0;
}

static int take_out(const struct chain *c, struct err *e)
{
    json_auto_t *listed = rules_of(c, e);
    const json_t *one;
    char command[COMMAND_MAX];
    size_t i;

    if (!listed)
        return -1;
    json_array_foreach(listed, i, one)
    {
        const json_t *rule = json_object_get(one, "rule");

        if (strcmp(text(rule, "comment"), OUR_COMMENT) != 0)
            continue;
        (void)snprintf(command,
                       sizeof(command),
                       "delete rule %s %s %s handle %lld",
                       c->family,
                       c->table,
                       c->name,
                       (long long)json_integer_value(json_object_get(rule, "handle")));
        if (rules_run(command, e) < 0)
            return -1;
    }
    return 0;
}

int firewall_restore(struct err *e)
{
    json_auto_t *chains = ask("list chains", e);
    const json_t *one;
    size_t i;

    if (!chains)
        return -1;
    json_array_foreach(chains, i, one)
    {
        const json_t *chain = json_object_get(one, "chain");
        struct chain c = chain_of(chain);

        if ((is_forward_hook(chain) || strcmp(c.name, DOCKERS_CHAIN) == 0) && take_out(&c, e) < 0)
            return -1;
    }
    return 0;
}
