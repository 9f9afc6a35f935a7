/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/serve.h"

#include <getopt.h>
#include <grp.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/version.h"
#include "daemon/config.h"
#include "daemon/datadir.h"
#include "image/catalog.h"
#include "image/import.h"
#include "net/net.h"
#include "trace/export.h"
#include "vm/adopt.h"
#include "vmm/host.h"

enum { PROBE_MS = 15000 };

/* Everything that the daemon is made of, in the order in which it comes up. NULL, -1: not yet. */
struct daemon {
    struct config config;
    struct datadir data;
    struct buf secret;
    struct vmm_host host;
    struct store *store;
    struct loop *loop;
    struct fswatcher *files;
    struct trace_exporter *exporter;
    struct catalog *images;
    struct net *net;
    struct vm_world world;
    bool has_world;
    struct api api;
    struct http_server *http;
    int signal_fd;
    struct watch signals;
};

static const char usage[] = "usage: hypeman serve " SERVE_USAGE "\n";

/* "127.0.0.1:8080", "[::1]:8080" or ":8080". */
static int take_listen(struct config *c, char *text, struct err *e)
{
    char *colon = strrchr(text, ':');
    char *address = text;

    if (!colon)
        return err_set(e, ERR_INVALID, "--listen takes ADDR:PORT");
    *colon = '\0';
    if (*address == '[' && colon[-1] == ']') {
        colon[-1] = '\0';
        address++;
    }
    if (*address && config_set(c, "address", address, e) < 0)
        return -1;
    return config_set(c, "port", colon + 1, e);
}

/* Files and environment first, flags over them. 1: only help was asked for. */
static int read_config(struct config *c, int argc, char **argv, struct err *e)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},
        {"data-dir", required_argument, NULL, 'd'},
        {"listen", required_argument, NULL, 'l'},
        {"socket", required_argument, NULL, 's'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    const char *file = NULL;
    char *flags[128] = {0};
    int o;

    optind = 1;
    while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (o == 'h')
            return 1;
        if (o == '?')
            return err_set(e, ERR_INVALID, "%s", usage);
        flags[o] = optarg;
    }
    if (optind < argc)
        return err_set(e, ERR_INVALID, "serve takes no argument \"%s\"", argv[optind]);
    file = flags['c'];
    if (config_read_file(c, file, e) < 0 || config_read_environment(c, e) < 0 ||
        (flags['d'] && config_set(c, "data_dir", flags['d'], e) < 0) ||
        (flags['s'] && config_set(c, "socket.path", flags['s'], e) < 0) ||
        (flags['l'] && take_listen(c, flags['l'], e) < 0))
        return -1;
    return 0;
}

static enum log_level level_of(const char *name)
{
    return strcmp(name, "debug") == 0   ? LOG_DEBUG_
           : strcmp(name, "warn") == 0  ? LOG_WARN_
           : strcmp(name, "error") == 0 ? LOG_ERROR_
                                        : LOG_INFO_;
}

/* What concerns the whole process, before the first thread. */
static int set_up_process(struct daemon *d, struct err *e)
{
    struct rlimit files;
    sigset_t set;

    umask(077);
    (void)mallopt(M_ARENA_MAX, 2); /* else each worker thread may keep an arena of its own */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max; /* a few fds a VM, thousands of VMs */
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    sigfillset(&set);
    sigdelset(&set, SIGSEGV);
    sigdelset(&set, SIGBUS);
    sigdelset(&set, SIGABRT);
    sigdelset(&set, SIGFPE);
    sigdelset(&set, SIGILL);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
        return err_set(e, ERR_INTERNAL, "block signals");
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return d->signal_fd < 0 ? err_errno(e, "signalfd") : 0;
}

/* Where the guest's kernel lies: as configured, beside the program of a build, or installed. */
static char *guest_file(const char *configured, const char *name)
{
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    char *slash;
    char *path;

    if (*configured)
        return mem_strdup(configured);
    exe[n > 0 ? n : 0] = '\0';
    slash = strrchr(exe, '/');
    if (slash) {
        *slash = '\0';
        path = mem_printf("%s/guest/%s", exe, name);
        if (access(path, R_OK) == 0)
            return path;
        free(path);
    }
    return mem_printf("%s/%s", HYPEMAN_GUEST_DIR, name);
}

static enum socket_readiness readiness_of(const char *word)
{
    return strcmp(word, "poll1") == 0    ? SOCKET_BY_POLL_1MS
           : strcmp(word, "poll50") == 0 ? SOCKET_BY_POLL_50MS
                                         : SOCKET_BY_EVENT;
}

/* Whether a load resumes, and why not, once. */
static bool resume_in_load(const struct config *c)
{
    if (!c->resume_in_load)
        log_info("Firecracker's guests are resumed after the load, not in it, as "
                 "HYPEMAN_FIRECRACKER_RESTORE_RESUME_ON_LOAD says");
    else if (c->deep_trace)
        log_info("Firecracker's guests are resumed after the load, so that the resume can be "
                 "measured, as HYPEMAN_RESTORE_DEEP_TRACE says");
    return c->resume_in_load && !c->deep_trace;
}

static int probe_host(struct daemon *d, struct err *e)
{
    struct op op = {clock_ms() + PROBE_MS, -1};
    auto_free char *kernel = guest_file(d->config.kernel, "vmlinux");
    auto_free char *initramfs = guest_file(d->config.initramfs, "initramfs.cpio");
    const char *accel = d->config.acceleration;
    struct vmm_host_settings settings = {
        .accel = strcmp(accel, "kvm") == 0   ? ACCEL_KVM
                 : strcmp(accel, "tcg") == 0 ? ACCEL_TCG
                                             : ACCEL_AUTO,
        .qemu = *d->config.qemu ? d->config.qemu : NULL,
        .firecracker = *d->config.firecracker ? d->config.firecracker : NULL,
        .cloud_hypervisor = *d->config.cloud_hypervisor ? d->config.cloud_hypervisor : NULL,
        .firecracker_metrics = d->config.firecracker_metrics,
        .firecracker_differences = d->config.firecracker_differences,
        .socket_readiness = readiness_of(d->config.socket_readiness),
        .kernel = kernel,
        .initramfs = initramfs,
    };

    if (strcmp(d->config.identity, "while-running") != 0 &&
        strcmp(d->config.identity, "before-run") != 0)
        return err_set(
            e,
            ERR_INVALID,
            "the setting guest.identity cannot be \"%s\": use while-running or before-run",
            d->config.identity);
    if (vmm_host_probe(&op, &settings, &d->host, e) < 0)
        return err_wrap(e, "look at this host");
    log_info(
        "acceleration: %s: %s", d->host.accel == VMM_KVM ? "KVM" : "TCG", d->host.accel_reason);
    return 0;
}

/* --- images --- */

struct removal {
    struct job job;
    int images_fd;
    char digest[DIGEST_SIZE];
};

static void removal_run(struct job *job)
{
    struct removal *r = container_of(job, struct removal, job);

    (void)image_remove_files(r->images_fd, r->digest, &job->err);
}

static void removal_done(struct job *job)
{
    struct removal *r = container_of(job, struct removal, job);

    if (job->err.code != ERR_NONE)
        log_warn("the files of image %s stay until the next start: %s", r->digest, job->err.msg);
    free(r);
}

static void image_is_unused(void *arg, const char *digest)
{
    struct daemon *d = arg;
    struct removal *r;
    struct err e = {0};

    if (!d->has_world)
        return;
    r = mem_new(struct removal);
    r->images_fd = d->data.images_fd;
    (void)snprintf(r->digest, sizeof(r->digest), "%s", digest);
    r->job.run = removal_run;
    r->job.done = removal_done;
    r->job.kind = VM_JOB_IMAGE;
    r->job.timeout_ms = 60000;
    if (jobs_submit(d->world.jobs, &r->job, &e) < 0) {
        r->job.err = e;
        removal_done(&r->job);
    }
}

static bool digest_is_used(void *arg, const char *digest)
{
    const struct daemon *d = arg;

    return catalog_is_used(d->images, digest);
}

/* --- coming up --- */

static int open_network(struct daemon *d, struct err *e)
{
    const struct config *c = &d->config;
    struct net_settings settings = {
        .enabled = c->network_enabled,
        .subnet = c->subnet,
        .inner_address = c->inner_address,
        .inner_gateway = c->inner_gateway,
        .dns = c->dns,
        .uplink = c->uplink,
        .host_ports = c->host_ports,
        .guest_to_guest = c->guest_to_guest,
        .opens_firewalls = c->open_firewalls,
        .dnsmasq = c->dnsmasq,
        .ready = (unsigned)c->ready_slots,
        .download_burst = (uint32_t)c->download_burst,
        .upload_burst = (uint32_t)c->upload_burst,
    };

    if (*c->bridge || *c->subnet_gateway)
        log_info(
            "network.bridge_name and network.subnet_gateway have no effect: guests are routed, "
            "there is no bridge, and their gateway is %s",
            c->inner_gateway);
    d->net = net_open(d->loop, &settings, e);
    if (d->net && !net_is_on(d->net))
        log_warn(
            net_leaves_it_to_vmm(d->net)
                ? "guests reach the outside by QEMU's user network, and nobody reaches them: %s"
                : "guests get no network: %s",
            net_why_off(d->net));
    return d->net ? 0 : -1;
}

static int open_state(struct daemon *d, struct err *e)
{
    struct vm_env env = {
        .host = &d->host,
        .resume_in_load = resume_in_load(&d->config),
        .firecracker_restores = (unsigned)d->config.firecracker_restores,
    };
    struct adopt_report report;

    d->exporter = trace_exporter_new(e);
    if (e->code != ERR_NONE)
        return -1;
    d->store = store_open(d->data.fd, e);
    d->loop = d->store ? loop_new(e) : NULL;
    d->files = d->loop ? fswatcher_of(d->loop, e) : NULL;
    if (!d->files || open_network(d, e) < 0)
        return -1;
    d->images = catalog_new(image_is_unused, d);
    if (catalog_load(d->images, d->store, e) < 0 || vm_boot_id(env.boot_id, e) < 0)
        return -1;
    env.data_fd = d->data.fd;
    env.instances_fd = d->data.instances_fd;
    env.images_fd = d->data.images_fd;
    env.templates_fd = d->data.templates_fd;
    env.store = d->store;
    env.net = d->net;
    env.identity_before_run = strcmp(d->config.identity, "before-run") == 0;
    world_init(&d->world, d->loop, &env);
    d->world.images = d->images;
    d->world.files = d->files;
    d->world.snapshot_timeout_ms = d->config.snapshot_timeout_ms;
    d->world.net = d->net;
    d->world.traces.exporter = d->world.reads.exporter = d->world.sessions.exporter = d->exporter;
    prober_policy(&d->world.prober, d->config.kill_after_ms);
    d->has_world = true;
    if (world_adopt(&d->world, &report, e) < 0 || net_start(d->net, e) < 0 ||
        image_sweep_files(d->data.images_fd, digest_is_used, d, e) < 0)
        return -1;
    log_info("%u instances: %u run, %u ended while no daemon ran, %u left-overs removed",
             report.instances,
             report.adopted,
             report.ended,
             report.swept);
    return 0;
}

/* And why it is that one. */
static const struct vmm_driver *choose_default(const struct daemon *d, const char **reason_out)
{
    const char *wanted = d->config.default_hypervisor;
    const struct vmm_driver *driver;
    struct err why = {0};

    if (*wanted) {
        *reason_out = "the setting hypervisor.default names it";
        driver = vmm_find(wanted);
        if (!driver)
            log_error("hypervisor.default: there is no hypervisor called %s", wanted);
        return driver;
    }
    *reason_out = "the first that this host can run, of cloud-hypervisor, firecracker, "
                  "qemu-microvm and qemu";
    for (size_t i = 0; (driver = vmm_driver_at(i)) != NULL; i++) {
        if (driver->available(&d->host, &why) == 0)
            return driver;
        log_info("%s cannot run here: %s", driver->name, why.msg);
        err_clear(&why);
    }
    *reason_out = "this host can run none; each says why";
    log_warn("no hypervisor can run here: instances can be listed, but not started");
    return NULL;
}

static void set_up_api(struct daemon *d)
{
    const struct group *group = getgrnam(d->config.socket_group);
    const char *reason;
    const struct vmm_driver *driver = choose_default(d, &reason);

    d->api = (struct api){
        .world = &d->world,
        .default_driver = driver,
        .default_reason = reason,
        .version = version_commit,
        .secret = *d->config.jwt_secret ? d->config.jwt_secret : buf_str(&d->secret),
        .own_uid = geteuid(),
        .admin_gid = group ? group->gr_gid : (gid_t)-1,
        .limits =
            {
                .max_vcpus = d->config.max_vcpus,
                .max_memory_bytes = d->config.max_memory_bytes,
                .max_overlay_bytes = d->config.max_overlay_bytes,
                .stop_grace_ms = d->config.stop_grace_ms,
                .exec_grace_ms = d->config.exec_grace_ms,
                .delete_grace_ms = d->config.delete_grace_ms,
            },
    };
    api_init(&d->api);
    if (driver)
        log_info("default hypervisor: %s: %s", driver->name, reason);
}

/* The directory of the socket, as mkdir would: a package or systemd usually made it. */
static void ensure_socket_dir(const char *socket)
{
    auto_free char *dir = mem_strdup(socket);
    char *slash = strrchr(dir, '/');

    if (slash && slash != dir) {
        *slash = '\0';
        (void)mkdir(dir, 0755); /* what is wrong with it, bind() will say */
    }
}

static int listen_on_all(struct daemon *d, struct err *e)
{
    struct http_handler handler = {
        .handle = api_handle, .body_limit = api_body_limit, .ctx = &d->api};
    int port;

    d->http = http_server_new(d->loop, &handler);
    ensure_socket_dir(d->config.socket);
    if (http_listen_unix(d->http, d->config.socket, 0660, d->config.socket_group, e) < 0 ||
        http_listen_tcp(d->http, d->config.address, d->config.port, &port, e) < 0 ||
        datadir_write_listen(&d->data, d->config.address, port, e) < 0)
        return -1;
    log_info("listening on %s:%d and %s", d->config.address, port, d->config.socket);
    return 0;
}

/* --- going down: VMs live on --- */

static void signalled(struct watch *w, uint32_t events)
{
    struct daemon *d = container_of(w, struct daemon, signals);
    struct signalfd_siginfo info;

    (void)events;
    if (read(d->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return;
    if (info.ssi_signo ==
        SIGHUP) /* a terminal that went away; there is no configuration to reload */
        return;
    log_info("stopping; the VMs go on");
    loop_stop(d->loop);
}

static void say_goodbye(struct daemon *d)
{
    if (d->http)
        http_server_stop(d->http);
    if (d->has_world)
        world_stop(&d->world);
    if (d->net)
        net_stop(d->net);
    http_server_free(d->http);
}

static void tear_down(struct daemon *d)
{
    say_goodbye(d);
    api_fini(&d->api);
    if (d->has_world)
        world_fini(&d->world);
    d->has_world = false;
    if (d->signals.fd > 0)
        loop_unwatch(d->loop, &d->signals);
    if (d->store)
        store_close(d->store);
    net_free(d->net);
    if (d->images)
        catalog_free(d->images);
    if (d->loop)
        loop_drain(d->loop);
    trace_exporter_free(d->exporter);
    loop_free(d->loop);
    cleanup_close(&d->signal_fd);
    buf_free(&d->secret);
    datadir_close(&d->data);
    config_free(&d->config);
}

static int bring_up(struct daemon *d, struct err *e)
{
    log_init(level_of(d->config.log_level));
    if (set_up_process(d, e) < 0 || datadir_open(&d->data, d->config.data_dir, e) < 0 ||
        datadir_secret(&d->data, d->config.data_dir, &d->secret, e) < 0 || probe_host(d, e) < 0 ||
        open_state(d, e) < 0)
        return -1;
    set_up_api(d);
    d->signals.fn = signalled;
    if (loop_watch(d->loop, &d->signals, d->signal_fd, EPOLLIN, e) < 0)
        return -1;
    return listen_on_all(d, e);
}

int daemon_serve(int argc, char **argv)
{
    struct daemon d = {
        .signal_fd = -1,
        .data = {.fd = -1, .lock_fd = -1, .instances_fd = -1, .images_fd = -1, .templates_fd = -1},
        .secret = BUF(4096),
    };
    struct err e = {0};
    int rc;

    config_init(&d.config);
    rc = read_config(&d.config, argc, argv, &e);
    if (rc == 1)
        (void)fputs(usage, stdout);
    else if (rc == 0 && (bring_up(&d, &e) < 0 || loop_run(d.loop, &e) < 0))
        rc = -1;
    if (rc < 0)
        log_error("%s", e.msg);
    tear_down(&d);
    return rc < 0 ? 1 : 0;
}
