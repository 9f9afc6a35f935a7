/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's settings: defaults, then a YAML file, then the environment, then flags.
 *
 * The file is --config, else CONFIG_PATH, else /etc/hypeman/config.yaml, else
 * ~/.config/hypeman/config.yaml, if there is one. Every key can be given in the
 * environment in upper case with __ for the dot (LIMITS__MAX_OVERLAY_SIZE); the
 * names that upstream used plain (PORT, DATA_DIR, JWT_SECRET, ...) work as well.
 * Keys that are not known are warned about and ignored, so that an upstream
 * configuration starts.
 *
 * Read once at start, immutable afterwards.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct config {
    char *data_dir;
    char *address; /* of the TCP listener */
    char *port;    /* "0": any */
    char *socket;
    char *socket_group;
    char *jwt_secret; /* empty: made and kept in <data_dir>/secret */
    char *log_level;
    char *default_hypervisor; /* empty: the best that this host can run */
    char *acceleration;       /* auto, kvm, tcg */
    char *qemu;               /* empty: found on PATH */
    char *firecracker;        /* likewise */
    char *cloud_hypervisor;
    bool firecracker_metrics;
    bool firecracker_differences;
    uint64_t firecracker_restores; /* at once */
    int64_t snapshot_timeout_ms;
    bool resume_in_load;
    bool deep_trace;        /* keeps the resume apart, so that it can be measured */
    char *socket_readiness; /* inotify, poll1, poll50: how a VMM's socket is waited for */
    char *kernel;           /* empty: the installed one */
    char *initramfs;
    char *identity; /* while-running, before-run: when a restored guest learns who it is */
    uint64_t max_vcpus;
    uint64_t max_memory_bytes;
    uint64_t max_overlay_bytes;
    int64_t stop_grace_ms;
    int64_t exec_grace_ms;
    int64_t delete_grace_ms;
    bool network_enabled;
    char *subnet;         /* of the guests' outer addresses */
    char *subnet_gateway; /* upstream's: accepted, nothing has that address here */
    char *bridge;         /* upstream's: accepted, there is no bridge here */
    char *uplink;         /* empty: where the default route leads */
    char *dns;
    char *inner_address;
    char *inner_gateway;
    char *host_ports;
    bool guest_to_guest;
    bool open_firewalls;
    uint64_t ready_slots;
    char *dnsmasq; /* empty: found */
    uint64_t download_burst;
    uint64_t upload_burst;
    int64_t kill_after_ms; /* of a VMM that does not answer; 0: it is only reported */
};

/* Fills in the defaults. */
void config_init(struct config *c);
void config_free(struct config *c);

/* path NULL: the usual places, and none is fine. */
int config_read_file(struct config *c, const char *path, struct err *e);
int config_read_environment(struct config *c, struct err *e);

/* One setting by its dotted name, as from a flag. ERR_NOT_FOUND: no such key. */
int config_set(struct config *c, const char *key, const char *value, struct err *e);
