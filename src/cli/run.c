/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "cli/cli.h"
#include "cli/follow.h"
#include "cli/names.h"
#include "cli/opt.h"
#include "cli/progress.h"
#include "cli/publish.h"
#include "cli/session.h"
#include "cli/text.h"

struct run_flags {
    const char *name;
    const char *memory;
    const char *hotplug;
    const char *overlay;
    const char *disk_io;
    const char *cpus;
    const char *hypervisor;
    const char *entrypoint;
    const char *cmd;
    struct argv env;
    struct argv tags;
    struct argv ports;
    const char *download;
    const char *upload;
    bool network;
    bool skip_agent;
    bool skip_headers;
    bool attach;
    bool detach;
};

static void flags_free(struct run_flags *f)
{
    argv_free(&f->env);
    argv_free(&f->tags);
    argv_free(&f->ports);
}

/* --- the request --- */

static int add_maps(const struct run_flags *f, json_t *body)
{
    json_t *env = json_object();
    json_t *tags = json_object();

    json_object_set_new(body, "env", env);
    json_object_set_new(body, "tags", tags);
    for (size_t i = 0; i < f->env.n; i++) {
        if (!env_add(env, f->env.v[i]))
            return cli_misuse(&cli_run, "--env takes KEY=VALUE or KEY, not %s", f->env.v[i]);
    }
    for (size_t i = 0; i < f->tags.n; i++) {
        if (!pair_add(tags, f->tags.v[i]))
            return cli_misuse(&cli_run, "--tag takes KEY=VALUE, not %s", f->tags.v[i]);
    }
    return CLI_OK;
}

static int add_text(json_t *body, const char *key, const char *value)
{
    return value ? json_object_set_new(body, key, json_string(value)) : 0;
}

static const char *full_name(const char *hypervisor)
{
    static const char *const names[][2] = {
        {"ch", "cloud-hypervisor"}, {"fc", "firecracker"}, {"microvm", "qemu-microvm"}};

    for (size_t i = 0; hypervisor && i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(hypervisor, names[i][0]) == 0)
            return names[i][1];
    }
    return hypervisor;
}

static int add_machine(const struct run_flags *f, json_t *body)
{
    uint64_t cpus;

    if (add_text(body, "size", f->memory) < 0 || add_text(body, "hotplug_size", f->hotplug) < 0 ||
        add_text(body, "overlay_size", f->overlay) < 0 ||
        add_text(body, "disk_io_bps", f->disk_io) < 0 ||
        add_text(body, "hypervisor", full_name(f->hypervisor)) < 0)
        return cli_misuse(&cli_run, "a value is not UTF-8");
    if (f->cpus && !parse_u64(f->cpus, 1, 1024, &cpus))
        return cli_misuse(&cli_run, "--cpus takes a number, not %s", f->cpus);
    if (f->cpus)
        json_object_set_new(body, "vcpus", json_integer((json_int_t)cpus));
    if (f->skip_agent)
        json_object_set_new(body, "skip_guest_agent", json_true());
    if (f->skip_headers)
        json_object_set_new(body, "skip_kernel_headers", json_true());
    return CLI_OK;
}

static int add_network(const struct run_flags *f, json_t *body)
{
    json_auto_t *network = json_object();

    if (!f->network)
        json_object_set_new(network, "enabled", json_false());
    if (add_text(network, "bandwidth_download", f->download) < 0 ||
        add_text(network, "bandwidth_upload", f->upload) < 0)
        return cli_misuse(&cli_run, "a rate is not UTF-8");
    if (json_object_size(network) > 0)
        json_object_set(body, "network", network);
    if (f->ports.n > 0)
        json_object_set_new(body, "ports", json_array());
    for (size_t i = 0; i < f->ports.n; i++) {
        if (!port_add(json_object_get(body, "ports"), f->ports.v[i]))
            return cli_misuse(
                &cli_run, "--publish takes [IP:]HOST:GUEST[/udp], not %s", f->ports.v[i]);
    }
    return CLI_OK;
}

static int add_words(const struct run_flags *f, json_t *body, int argc, char **argv)
{
    if (f->entrypoint && json_object_set_new(body, "entrypoint", words_parse(f->entrypoint)) < 0)
        return cli_misuse(&cli_run, "--entrypoint takes words or a JSON array of strings");
    if (f->cmd && argc > 0)
        return cli_misuse(&cli_run, "give the command once, by --cmd or behind the image");
    if (f->cmd && json_object_set_new(body, "cmd", words_parse(f->cmd)) < 0)
        return cli_misuse(&cli_run, "--cmd takes words or a JSON array of strings");
    if (argc > 0 && json_object_set_new(body, "cmd", words_from(argc, argv)) < 0)
        return cli_misuse(&cli_run, "the command is not UTF-8");
    return CLI_OK;
}

/* argv is the image and the command. */
static int make_body(const struct run_flags *f, json_t *body, int argc, char **argv)
{
    int skip;
    int rc;

    if (add_text(body, "image", argv[0]) < 0 || add_text(body, "name", f->name) < 0)
        return cli_misuse(&cli_run, "a name is not UTF-8");
    rc = add_maps(f, body);
    if (rc == CLI_OK)
        rc = add_machine(f, body);
    if (rc == CLI_OK)
        rc = add_network(f, body);
    if (rc != CLI_OK)
        return rc;
    /* "IMAGE -- CMD" is what people type who know other tools. */
    skip = argc > 1 && strcmp(argv[1], "--") == 0 ? 2 : 1;
    return add_words(f, body, argc - skip, argv + skip);
}

/* --- the call --- */

static bool is_name_taken(const struct err *e)
{
    return strcmp(err_name(e), "name_conflict") == 0 || strcmp(err_name(e), "already_exists") == 0;
}

/* A name that we invented may be taken; then another one is as good. */
static json_t *create(json_t *body, bool has_name, struct err *e)
{
    enum { TRIES = 4 };

    for (int i = 0;; i++) {
        char name[NAME_SIZE];
        json_t *doc;

        if (!has_name) {
            name_invent(i > 0, name);
            json_object_set_new(body, "name", json_string(name));
        }
        progress_begin("creating %s", text_of(body, "name"));
        doc = session_call("POST", "/instances", body, SESSION_CREATE_MS, e);
        progress_end();
        if (doc || has_name || !is_name_taken(e) || i == TRIES)
            return doc;
        err_clear(e);
    }
}

static int report_create(const char *image, const struct err *e)
{
    struct err better = {0};

    if (e->code != ERR_NOT_FOUND)
        return report(e);
    err_set(&better,
            ERR_NOT_FOUND,
            "%s: %s; 'hypeman image list' shows the images, 'hypeman image import' makes one",
            image,
            e->msg);
    return report(&better);
}

/* --- --attach --- */

/* The workload's exit code is ours. */
static int exit_like(const char *name, const char *path)
{
    struct err e = {0};
    json_auto_t *doc = session_get(path, &e);
    const json_t *code = json_object_get(doc, "exit_code");

    if (!doc)
        return report_instance(name, &e);
    if (!json_is_integer(code)) {
        err_set(&e,
                ERR_INTERNAL,
                "%s ended without an exit code%s%s",
                name,
                *text_of(doc, "exit_message") ? ": " : "",
                text_of(doc, "exit_message"));
        return report(&e);
    }
    return (int)(json_integer_value(code) & 0xff);
}

static int attach(const json_t *instance)
{
    const char *name = text_of(instance, "name");
    auto_free char *path = instance_path(text_of(instance, "id"), "");
    struct err e = {0};
    json_auto_t *doc = follow_until_end(text_of(instance, "id"), &e);
    int rc;

    if (!doc) {
        rc = report(&e);
        fprintf(stderr,
                "hypeman: %s goes on; 'hypeman logs -f %s' shows it, 'hypeman stop %s' ends it\n",
                name,
                name,
                name);
        return rc;
    }
    if (strcmp(text_of(doc, "state"), "Stopped") == 0)
        return exit_like(name, path);
    err_set(&e, ERR_BAD_STATE, "%s is %s; no longer attached", name, text_of(doc, "state"));
    return report(&e);
}

static int run_with(const struct run_flags *f, int argc, char **argv)
{
    json_auto_t *body = json_object();
    json_auto_t *instance = NULL;
    struct err e = {0};
    int rc;

    if (argc == 0)
        return cli_misuse(&cli_run, "name an image");
    if (f->attach && f->detach)
        return cli_misuse(&cli_run, "--attach and --detach exclude each other");
    rc = make_body(f, body, argc, argv);
    if (rc != CLI_OK)
        return rc;
    instance = create(body, f->name != NULL, &e);
    if (!instance)
        return report_create(argv[0], &e);
    if (f->attach)
        return attach(instance);
    puts(text_of(instance, "id"));
    return CLI_OK;
}

static int run(int argc, char **argv)
{
    __attribute__((cleanup(flags_free))) struct run_flags f = {.network = true};
    const struct opt opts[] = {
        {0, "name", OPT_TEXT, &f.name, "NAME", "a name; one is invented if there is none"},
        {'e', "env", OPT_LIST, &f.env, "KEY=VALUE", "a variable; KEY alone passes ours on"},
        {0, "memory", OPT_TEXT, &f.memory, "SIZE", "memory: 512MB, 2GB"},
        {0, "cpus", OPT_TEXT, &f.cpus, "N", "virtual CPUs"},
        {0, "overlay-size", OPT_TEXT, &f.overlay, "SIZE", "the most its writable disk takes"},
        {0, "disk-io", OPT_TEXT, &f.disk_io, "RATE", "the most its disks do each: 100MB/s"},
        {0, "hotplug-size", OPT_TEXT, &f.hotplug, "SIZE", "memory that may be added later"},
        {0, "hypervisor", OPT_TEXT, &f.hypervisor, "NAME", "qemu-microvm, qemu, fc, ch"},
        {0, "entrypoint", OPT_TEXT, &f.entrypoint, "WORDS", "instead of the image's; or JSON"},
        {0, "cmd", OPT_TEXT, &f.cmd, "WORDS", "instead of CMD behind the image; or JSON"},
        {'l', "tag", OPT_LIST, &f.tags, "KEY=VALUE", "a tag; repeatable"},
        {'p', "publish", OPT_LIST, &f.ports, "PORTS", "[IP:]HOST:GUEST[/udp], as docker has it"},
        {0, "network", OPT_FLAG, &f.network, NULL, "give it a network (--network=false: none)"},
        {0, "bandwidth-down", OPT_TEXT, &f.download, "RATE", "the most it takes in: 10MB/s, 1Gbps"},
        {0, "bandwidth-up", OPT_TEXT, &f.upload, "RATE", "the most it sends out"},
        {0, "skip-guest-agent", OPT_FLAG, &f.skip_agent, NULL, "without the agent"},
        {0, "skip-kernel-headers", OPT_FLAG, &f.skip_headers, NULL, "without kernel headers"},
        {'a', "attach", OPT_FLAG, &f.attach, NULL, "follow its log and exit as it exits"},
        {'d', "detach", OPT_FLAG, &f.detach, NULL, "print its id and return (the default)"},
        {0},
    };
    int rc = opt_parse(&cli_run, opts, &argc, &argv);

    return rc == OPT_GO ? run_with(&f, argc, argv) : rc;
}

const struct cli_verb cli_run = {
    .name = "run",
    .help = "Create an instance from an image and start it",
    .usage = "[flags] IMAGE [CMD...]",
    .run = run,
    .is_prefix = true,
};
