/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "api/handlers.h"
#include "api/spec_data.h"
#include "base/json.h"
#include "net/net.h"

/* info.version of api/openapi.yaml; a test compares them. */
#define API_VERSION "0.3.0"

void api_health(struct call *c)
{
    struct buf json = BUF(64);

    buf_puts(&json, "{\"status\":\"ok\"}");
    call_reply(c, 200, &json);
}

/* What a driver can do is what it has functions for; nothing is claimed twice. */
static void put_features(struct jout *j, const struct vmm_driver *d)
{
    const bool snapshots = d->save && d->load;

    jout_open(j, "features", '[');
    jout_str(j, NULL, "disk-io-limit"); /* vmm_rates: every driver's */
    if (d->pause && d->resume)
        jout_str(j, NULL, "pause");
    if (snapshots) {
        jout_str(j, NULL, "snapshots");
        jout_str(j, NULL, "standby");
        jout_str(j, NULL, "fork");
    }
    if (d->resize)
        jout_str(j, NULL, "hotplug-memory");
    if (d->set_balloon)
        jout_str(j, NULL, "balloon-control");
    jout_close(j, ']');
}

static void put_runtime(struct jout *j, const struct api *api, const struct vmm_driver *d)
{
    struct err why = {0};
    bool available = d->available(api->world->env.host, &why) == 0;

    jout_open(j, NULL, '{');
    jout_str(j, "name", d->name);
    jout_bool(j, "available", available);
    put_features(j, d);
    if (!available)
        jout_str(j, "unavailable_reason", why.msg);
    jout_close(j, '}');
}

static void put_runtimes(struct jout *j, const struct api *api)
{
    const struct vmm_driver *d;

    jout_open(j, "default_runtime", '{');
    jout_str(j, "name", api->default_driver ? api->default_driver->name : "none");
    jout_bool(j, "available", api->default_driver != NULL);
    jout_str(j, "reason", api->default_reason);
    jout_close(j, '}');
    /* Sorted by name, as the contract has it; a handful, so the plainest way will do. */
    jout_open(j, "runtimes", '[');
    for (const char *last = "";;) {
        const struct vmm_driver *next = NULL;

        for (size_t i = 0; (d = vmm_driver_at(i)) != NULL; i++) {
            if (strcmp(d->name, last) > 0 && (!next || strcmp(d->name, next->name) < 0))
                next = d;
        }
        if (!next)
            break;
        put_runtime(j, api, next);
        last = next->name;
    }
    jout_close(j, ']');
}

static void put_names(struct jout *j, const char *key, const char *const *names)
{
    jout_open(j, key, '[');
    for (; *names; names++)
        jout_str(j, NULL, *names);
    jout_close(j, ']');
}

static void put_network(struct jout *j, const struct net *net)
{
    const struct net_plan *plan = net_plan(net);
    char text[SUBNET_TEXT_SIZE];

    jout_open(j, "network", '{');
    jout_str(j, "model", net_leaves_it_to_vmm(net) ? "user" : "nat");
    jout_str(j, "gateway", address_text(plan->gateway, text));
    jout_str(j, "subnet", subnet_text(plan->outer, text));
    jout_bool(j, "guest_to_guest", net_is_on(net) && plan->guest_to_guest);
    jout_bool(j, "available", net_is_on(net));
    if (!net_is_on(net))
        jout_str(j, "unavailable_reason", net_why_off(net));
    jout_open(j, "names", '{');
    jout_bool(j, "available", !net_why_no_names(net));
    jout_str(j, "domain", NET_DOMAIN);
    if (net_why_no_names(net))
        jout_str(j, "unavailable_reason", net_why_no_names(net));
    jout_close(j, '}');
    if (*net_firewall_commands(net))
        jout_str(j, "firewall_commands", net_firewall_commands(net));
    jout_close(j, '}');
}

void api_capabilities(struct call *c)
{
    static const char *const platforms[] = {"linux/amd64", NULL};
    static const char *const features[] = {"instances", "images", "exec", "logs", NULL};
    struct buf json = BUF(64 * 1024);
    struct jout j = JOUT(&json);

    jout_open(&j, NULL, '{');
    jout_open(&j, "server", '{');
    jout_str(&j, "version", c->api->version);
    jout_str(&j, "api_version", API_VERSION);
    jout_close(&j, '}');
    jout_open(&j, "host", '{');
    jout_str(&j, "os", "linux");
    jout_str(&j, "arch", "amd64");
    jout_str(&j, "accelerator", c->api->world->env.host->accel == VMM_KVM ? "kvm" : "tcg");
    jout_str(&j, "accelerator_reason", c->api->world->env.host->accel_reason);
    jout_close(&j, '}');
    put_runtimes(&j, c->api);
    put_network(&j, c->api->world->net);
    jout_open(&j, "images", '{');
    put_names(&j, "platforms", platforms);
    jout_str(&j, "default_platform", platforms[0]);
    jout_close(&j, '}');
    put_names(&j, "features", features);
    jout_close(&j, '}');
    call_reply(c, 200, &json);
}

static void reply_static(struct call *c, const char *type, const unsigned char *data, size_t len)
{
    struct http_shared body = {.data = (const char *)data, .len = len};

    http_reply_shared(c->http, 200, type, &body);
    call_done(c);
}

void api_spec_json(struct call *c)
{
    reply_static(c, "application/json", spec_json, spec_json_len);
}

void api_spec_yaml(struct call *c)
{
    reply_static(c, "application/vnd.oai.openapi", spec_yaml, spec_yaml_len);
}

void api_planned(struct call *c)
{
    call_fail_with(c,
                   ERR_UNSUPPORTED,
                   NULL,
                   "%s %s: not available in this version",
                   http_method(c->http),
                   http_path(c->http));
}
