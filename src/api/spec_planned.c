/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "api/api.h"
#include "api/member.h"
#include "base/clock.h"
#include "base/parse.h"

/*
 * The members of POST /instances that this version does not carry out. Their form
 * is checked as if it did; then they are refused, unless they ask for nothing:
 * what is acknowledged is not silently dropped.
 */

static int not_yet(struct err *e, const char *what)
{
    return err_set(e, ERR_UNSUPPORTED, "%s: not available in this version", what);
}

static int check_volumes(const json_t *body, struct err *e)
{
    const json_t *list;
    const json_t *item;
    size_t i;

    if (json_member(body, "volumes", JSON_ARRAY, &list, e) < 0)
        return -1;
    json_array_foreach(list, i, item)
    {
        if (!json_is_string(json_object_get(item, "volume_id")) ||
            !json_is_string(json_object_get(item, "mount_path")))
            return json_bad(
                e, "Bad Request", "must hold objects with volume_id and mount_path", "volumes");
    }
    return json_array_size(list) ? not_yet(e, "volumes") : 0;
}

static int check_devices(const json_t *body, struct err *e)
{
    const json_t *list;
    const json_t *item;
    const json_t *gpu;
    const json_t *credentials;
    size_t i;

    if (json_member(body, "devices", JSON_ARRAY, &list, e) < 0 ||
        json_member(body, "gpu", JSON_OBJECT, &gpu, e) < 0 ||
        json_member(body, "credentials", JSON_OBJECT, &credentials, e) < 0)
        return -1;
    json_array_foreach(list, i, item)
    {
        if (!json_is_string(item))
            return json_bad(e, "Bad Request", "must hold strings", "devices");
    }
    if (json_array_size(list))
        return not_yet(e, "devices");
    if (gpu)
        return not_yet(e, "gpu");
    return json_object_size(credentials) ? not_yet(e, "credentials") : 0;
}

static int check_lifetime(const json_t *body, struct err *e)
{
    const char *ttl;
    const char *expires_at;
    int64_t ttl_ms = 0;
    int64_t at_us;

    if (json_text_member(body, "ttl", &ttl, e) < 0 ||
        json_text_member(body, "expires_at", &expires_at, e) < 0)
        return -1;
    if (ttl && !parse_duration_ms(ttl, &ttl_ms))
        return json_bad(e, "invalid_ttl", "is not a duration such as 30m", "ttl");
    if (ttl && expires_at)
        return json_bad(e, "invalid_request", "and expires_at exclude one another", "ttl");
    if (expires_at && (!time_parse(expires_at, &at_us) || at_us <= wall_us()))
        return json_bad(e, "invalid_expires_at", "must be a time in the future", "expires_at");
    if (expires_at)
        return not_yet(e, "expires_at");
    return ttl_ms > 0 ? not_yet(e, "ttl") : 0;
}

static int check_network(const json_t *body, struct err *e)
{
    const json_t *network = json_object_get(body, "network");
    const json_t *egress;
    bool enabled;

    if (json_member(network, "egress", JSON_OBJECT, &egress, e) < 0 ||
        json_bool_member(egress, "enabled", false, &enabled, e) < 0)
        return err_wrap(e, "network");
    return enabled ? not_yet(e, "network.egress") : 0;
}

/* "none" or "never" asks for nothing; another known word is not there yet. */
static int check_word(const json_t *body, const char *object, const char *key,
                      const char *const *words, struct err *e)
{
    const json_t *policy;
    const char *word;

    if (json_member(body, object, JSON_OBJECT, &policy, e) < 0)
        return -1;
    if (json_text_member(policy, key, &word, e) < 0)
        return err_wrap(e, "%s", object);
    if (!word || strcmp(word, words[0]) == 0)
        return 0;
    for (size_t i = 1; words[i]; i++) {
        if (strcmp(word, words[i]) == 0)
            return not_yet(e, object);
    }
    json_bad(e, NULL, "is not one of its words", key);
    return err_wrap(e, "%s", object);
}

static int check_auto_standby(const json_t *body, struct err *e)
{
    const json_t *policy;
    const char *idle;
    bool enabled;
    int64_t ms;

    if (json_member(body, "auto_standby", JSON_OBJECT, &policy, e) < 0)
        return -1;
    if (json_bool_member(policy, "enabled", false, &enabled, e) < 0 ||
        json_text_member(policy, "idle_timeout", &idle, e) < 0)
        return err_wrap(e, "auto_standby");
    if (idle && !parse_duration_ms(idle, &ms))
        return json_bad(
            e, "invalid_auto_standby", "is not a duration such as 5m", "auto_standby.idle_timeout");
    return enabled ? not_yet(e, "auto_standby") : 0;
}

static int check_snapshot_policy(const json_t *body, struct err *e)
{
    const json_t *policy;
    const json_t *compression;
    bool enabled;

    if (json_member(body, "snapshot_policy", JSON_OBJECT, &policy, e) < 0)
        return -1;
    if (json_member(policy, "compression", JSON_OBJECT, &compression, e) < 0 ||
        json_bool_member(compression, "enabled", false, &enabled, e) < 0)
        return err_wrap(e, "snapshot_policy");
    return enabled ? not_yet(e, "snapshot_policy") : 0;
}

int spec_refuse_planned(const json_t *body, struct err *e)
{
    static const char *const health[] = {"none", "http", "tcp", "exec", NULL};
    static const char *const restart[] = {"never", "always", "on_failure", NULL};

    if (check_word(body, "health_check", "type", health, e) < 0)
        return e->slug || e->code != ERR_INVALID ? -1 : err_slug(e, "invalid_health_check");
    if (check_word(body, "restart_policy", "policy", restart, e) < 0)
        return e->slug || e->code != ERR_INVALID ? -1 : err_slug(e, "invalid_restart_policy");
    if (check_volumes(body, e) < 0 || check_devices(body, e) < 0 || check_lifetime(body, e) < 0 ||
        check_network(body, e) < 0 || check_auto_standby(body, e) < 0)
        return -1;
    return check_snapshot_policy(body, e);
}
