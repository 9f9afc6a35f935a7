/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/config.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <yaml.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/parse.h"

enum kind { TEXT, NUMBER, SIZE, DURATION, SWITCH, POLICY };

static const struct setting {
    const char *key;
    enum kind kind;
    size_t offset;
    const char *plain_env; /* upstream's own name; NULL: only the general form */
    const char *otherwise;
} settings[] = {
    {"data_dir", TEXT, offsetof(struct config, data_dir), "DATA_DIR", "/var/lib/hypeman"},
    {"address", TEXT, offsetof(struct config, address), NULL, "127.0.0.1"},
    {"port", TEXT, offsetof(struct config, port), "PORT", "8080"},
    {"socket.path", TEXT, offsetof(struct config, socket), NULL, "/run/hypeman/hypeman.sock"},
    {"socket.group", TEXT, offsetof(struct config, socket_group), NULL, "hypeman"},
    {"jwt_secret", TEXT, offsetof(struct config, jwt_secret), "JWT_SECRET", ""},
    {"log.level", TEXT, offsetof(struct config, log_level), "LOG_LEVEL", "info"},
    {"hypervisor.default",
     TEXT,
     offsetof(struct config, default_hypervisor),
     "DEFAULT_HYPERVISOR",
     ""},
    {"hypervisor.acceleration", TEXT, offsetof(struct config, acceleration), NULL, "auto"},
    {"hypervisor.qemu_binary_path", TEXT, offsetof(struct config, qemu), NULL, ""},
    {"hypervisor.firecracker_binary_path", TEXT, offsetof(struct config, firecracker), NULL, ""},
    {"hypervisor.cloud_hypervisor_binary_path",
     TEXT,
     offsetof(struct config, cloud_hypervisor),
     NULL,
     ""},
    {"hypervisor.firecracker_metrics",
     SWITCH,
     offsetof(struct config, firecracker_metrics),
     NULL,
     "false"},
    {"hypervisor.firecracker_diff_snapshots",
     SWITCH,
     offsetof(struct config, firecracker_differences),
     NULL,
     "false"},
    {"hypervisor.firecracker_max_concurrent_restores",
     NUMBER,
     offsetof(struct config, firecracker_restores),
     NULL,
     "32"},
    {"hypervisor.firecracker_restore_resume_on_load",
     SWITCH,
     offsetof(struct config, resume_in_load),
     "HYPEMAN_FIRECRACKER_RESTORE_RESUME_ON_LOAD",
     "true"},
    {"hypervisor.snapshot_timeout",
     DURATION,
     offsetof(struct config, snapshot_timeout_ms),
     NULL,
     "2m"},
    {"hypervisor.restore_deep_trace",
     SWITCH,
     offsetof(struct config, deep_trace),
     "HYPEMAN_RESTORE_DEEP_TRACE",
     "false"},
    {"hypervisor.socket_readiness",
     TEXT,
     offsetof(struct config, socket_readiness),
     NULL,
     "inotify"},
    {"guest.kernel", TEXT, offsetof(struct config, kernel), NULL, ""},
    {"guest.identity", TEXT, offsetof(struct config, identity), NULL, "while-running"},
    {"guest.initramfs", TEXT, offsetof(struct config, initramfs), NULL, ""},
    {"limits.max_vcpus_per_instance",
     NUMBER,
     offsetof(struct config, max_vcpus),
     "MAX_VCPUS_PER_INSTANCE",
     "16"},
    {"limits.max_memory_per_instance",
     SIZE,
     offsetof(struct config, max_memory_bytes),
     "MAX_MEMORY_PER_INSTANCE",
     "32GB"},
    {"limits.max_overlay_size",
     SIZE,
     offsetof(struct config, max_overlay_bytes),
     "MAX_OVERLAY_SIZE",
     "100GB"},
    {"network.enabled", SWITCH, offsetof(struct config, network_enabled), NULL, "true"},
    {"network.subnet_cidr", TEXT, offsetof(struct config, subnet), "SUBNET_CIDR", "10.100.0.0/16"},
    {"network.subnet_gateway", TEXT, offsetof(struct config, subnet_gateway), "SUBNET_GATEWAY", ""},
    {"network.bridge_name", TEXT, offsetof(struct config, bridge), "BRIDGE_NAME", ""},
    {"network.uplink_interface", TEXT, offsetof(struct config, uplink), "UPLINK_INTERFACE", ""},
    {"network.dns_server", TEXT, offsetof(struct config, dns), "DNS_SERVER", "1.1.1.1"},
    {"network.inner_address", TEXT, offsetof(struct config, inner_address), NULL, "192.0.0.2/29"},
    {"network.inner_gateway", TEXT, offsetof(struct config, inner_gateway), NULL, "192.0.0.1"},
    {"network.guest_to_guest", SWITCH, offsetof(struct config, guest_to_guest), NULL, "true"},
    {"network.host_ports", TEXT, offsetof(struct config, host_ports), NULL, ""},
    {"network.open_firewalls", SWITCH, offsetof(struct config, open_firewalls), NULL, "false"},
    {"network.ready_slots", NUMBER, offsetof(struct config, ready_slots), NULL, "16"},
    {"network.dnsmasq_path", TEXT, offsetof(struct config, dnsmasq), NULL, ""},
    {"network.download_burst_multiplier",
     NUMBER,
     offsetof(struct config, download_burst),
     "DOWNLOAD_BURST_MULTIPLIER",
     "4"},
    {"network.upload_burst_multiplier",
     NUMBER,
     offsetof(struct config, upload_burst),
     "UPLOAD_BURST_MULTIPLIER",
     "4"},
    {"instances.stop_timeout", DURATION, offsetof(struct config, stop_grace_ms), NULL, "5s"},
    {"instances.exec_kill_grace", DURATION, offsetof(struct config, exec_grace_ms), NULL, "10s"},
    {"instances.delete_timeout", DURATION, offsetof(struct config, delete_grace_ms), NULL, "2s"},
    {"unresponsive", POLICY, offsetof(struct config, kill_after_ms), NULL, "report"},
};
enum { N_SETTINGS = sizeof(settings) / sizeof(settings[0]) };

/* "report" or "kill-after DURATION". */
static bool parse_policy(const char *value, int64_t *kill_after_ms)
{
    static const char kill[] = "kill-after ";

    *kill_after_ms = 0;
    if (strcmp(value, "report") == 0)
        return true;
    return strncmp(value, kill, sizeof(kill) - 1) == 0 &&
           parse_duration_ms(value + sizeof(kill) - 1, kill_after_ms) && *kill_after_ms > 0;
}

static bool parse_switch(const char *value, bool *out)
{
    static const char *const words[] = {"0", "1", "false", "true", "no", "yes", "off", "on"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcasecmp(words[i], value) == 0) {
            *out = i % 2 == 1;
            return true;
        }
    }
    return false;
}

static int assign(struct config *c, const struct setting *s, const char *value, struct err *e)
{
    char *at = (char *)c + s->offset;
    char *copy;
    bool good = true;

    switch (s->kind) {
    case TEXT:
        copy = mem_strdup(value);
        free(*(char **)(void *)at);
        memcpy(at, &copy, sizeof(copy));
        break;
    case NUMBER:
        good = parse_u64(value, 1, 1 << 20, (uint64_t *)(void *)at);
        break;
    case SIZE:
        good = parse_size(value, (uint64_t *)(void *)at);
        break;
    case DURATION:
        good = parse_duration_ms(value, (int64_t *)(void *)at);
        break;
    case SWITCH:
        good = parse_switch(value, (bool *)(void *)at);
        break;
    case POLICY:
        good = parse_policy(value, (int64_t *)(void *)at);
        break;
    }
    return good ? 0 : err_set(e, ERR_INVALID, "the setting %s cannot be \"%s\"", s->key, value);
}

void config_init(struct config *c)
{
    struct err e = {0};

    *c = (struct config){0};
    for (size_t i = 0; i < N_SETTINGS; i++) {
        if (assign(c, &settings[i], settings[i].otherwise, &e) < 0)
            abort();
    }
}

void config_free(struct config *c)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        if (settings[i].kind == TEXT)
            free(*(char **)(void *)((char *)c + settings[i].offset));
    }
    *c = (struct config){0};
}

int config_set(struct config *c, const char *key, const char *value, struct err *e)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        if (strcmp(settings[i].key, key) == 0)
            return assign(c, &settings[i], value, e);
    }
    return err_set(e, ERR_NOT_FOUND, "there is no setting called %s", key);
}

/* "limits.max_vcpus" as "LIMITS__MAX_VCPUS". */
static void env_name(const char *key, struct buf *out)
{
    for (; *key; key++) {
        char upper = (char)toupper((unsigned char)*key);

        buf_append(out, *key == '.' ? "__" : &upper, *key == '.' ? 2 : 1);
    }
}

int config_read_environment(struct config *c, struct err *e)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        struct buf name = BUF(256);
        const char *value;

        env_name(settings[i].key, &name);
        value = getenv(buf_str(&name));
        buf_free(&name);
        if (!value && settings[i].plain_env)
            value = getenv(settings[i].plain_env);
        if (value && assign(c, &settings[i], value, e) < 0)
            return -1;
    }
    return 0;
}

/* --- the file: nested mappings of scalars, flattened to dotted keys --- */

struct reading {
    struct config *config;
    struct buf path; /* "limits.max_" ... the key being read */
    struct err *err;
};

static int take_scalar(struct reading *r, const yaml_node_t *node)
{
    if (config_set(r->config, buf_str(&r->path), (const char *)node->data.scalar.value, r->err) ==
        0)
        return 0;
    if (r->err->code != ERR_NOT_FOUND)
        return -1;
    err_clear(r->err);
    log_warn("the configuration's %s is not known and is ignored", buf_str(&r->path));
    return 0;
}

static int take_mapping(struct reading *r, yaml_document_t *doc, const yaml_node_t *map, int depth)
{
    size_t base = r->path.len;

    if (depth > 8)
        return err_set(r->err, ERR_INVALID, "the configuration is nested too deeply");
    for (const yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top;
         p++) {
        const yaml_node_t *key = yaml_document_get_node(doc, p->key);
        const yaml_node_t *value = yaml_document_get_node(doc, p->value);
        int rc = 0;

        if (!key || !value || key->type != YAML_SCALAR_NODE)
            continue;
        buf_printf(&r->path, "%s%s", base ? "." : "", (const char *)key->data.scalar.value);
        if (value->type == YAML_SCALAR_NODE)
            rc = take_scalar(r, value);
        else if (value->type == YAML_MAPPING_NODE)
            rc = take_mapping(r, doc, value, depth + 1);
        else
            log_warn("the configuration's %s is not known and is ignored", buf_str(&r->path));
        if (rc < 0)
            return -1;
        r->path.len = base;
        if (r->path.data)
            r->path.data[base] = '\0';
    }
    return 0;
}

static int read_document(struct config *c, yaml_parser_t *parser, struct err *e)
{
    struct reading r = {.config = c, .path = BUF(4096), .err = e};
    yaml_document_t doc;
    const yaml_node_t *root;
    int rc = 0;

    if (!yaml_parser_load(parser, &doc))
        return err_set(e,
                       ERR_INVALID,
                       "line %zu: %s",
                       parser->problem_mark.line + 1,
                       parser->problem ? parser->problem : "not YAML");
    root = yaml_document_get_root_node(&doc);
    if (root && root->type == YAML_MAPPING_NODE)
        rc = take_mapping(&r, &doc, root, 0);
    else if (root)
        rc = err_set(e, ERR_INVALID, "it must be a mapping of settings");
    buf_free(&r.path);
    yaml_document_delete(&doc);
    return rc;
}

static int read_path(struct config *c, const char *path, bool must_exist, struct err *e)
{
    FILE *f = fopen(path, "re");
    yaml_parser_t parser;
    int rc;

    if (!f && errno == ENOENT && !must_exist)
        return 0;
    if (!f)
        return err_errno(e, "configuration %s", path);
    if (!yaml_parser_initialize(&parser))
        abort();
    yaml_parser_set_input_file(&parser, f);
    rc = read_document(c, &parser, e);
    yaml_parser_delete(&parser);
    (void)fclose(f);
    return rc < 0 ? err_wrap(e, "configuration %s", path) : 1;
}

int config_read_file(struct config *c, const char *path, struct err *e)
{
    const char *home = getenv("HOME");
    char *in_home;
    int rc;

    if (!path)
        path = getenv("CONFIG_PATH");
    if (path)
        return read_path(c, path, true, e) < 0 ? -1 : 0;
    rc = read_path(c, "/etc/hypeman/config.yaml", false, e);
    if (rc != 0 || !home)
        return rc < 0 ? -1 : 0;
    in_home = mem_printf("%s/.config/hypeman/config.yaml", home);
    rc = read_path(c, in_home, false, e);
    free(in_home);
    return rc < 0 ? -1 : 0;
}
