/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client asked for when it made an instance.
 *
 * Immutable once it is in the table; a change (other entrypoint, other env) makes
 * a new one. So the loop and its jobs share one by reference count, from any
 * thread. What the server only stores and gives back stays JSON text.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/id.h"

struct vmm_driver;
struct port_map;

struct tag {
    char *key;
    char *value;
};

struct spec {
    atomic_uint refs;
    char name[NAME_SIZE];
    char *image;        /* normalised reference */
    char *image_digest; /* names the directory below images/ */
    const struct vmm_driver *driver;
    char *hypervisor; /* the driver's name; kept apart, for a record whose driver is not built in */
    uint32_t vcpus;
    uint64_t memory_bytes;
    uint64_t hotplug_bytes;
    uint64_t overlay_bytes;
    uint64_t disk_rate; /* of image and writable disk each, bytes a second; 0: no limit */
    bool network_enabled;
    uint64_t download_rate; /* of the network, bytes a second; 0: no limit */
    uint64_t upload_rate;
    struct port_map *ports; /* of the host, that lead to it */
    size_t n_ports;
    bool skip_guest_agent;
    bool skip_kernel_headers;
    int64_t created_us;
    struct tag *tags; /* sorted by key */
    size_t n_tags;

    /* JSON text, each NULL when absent. */
    char *env;          /* object of strings */
    char *entrypoint;   /* array of strings: the client's override */
    char *cmd;          /* the same */
    char *image_config; /* {"entrypoint","cmd","env","working_dir","user"} of the image */
};

struct spec *spec_new(void);
struct spec *spec_ref(struct spec *s);
void spec_unref(struct spec *s); /* NULL is fine */

/* A copy to change before it is published; one reference. */
struct spec *spec_copy(const struct spec *s);

/* The document that the store keeps. */
void spec_write(struct buf *out, const struct spec *s);
struct spec *spec_read(const char *json, struct err *e);

/* True when the instance carries this tag with this value. */
bool spec_has_tag(const struct spec *s, const char *key, const char *value);

/* What a guest is to know of its network. */
struct net_plan;
struct spec_network {
    const struct net_plan *plan; /* NULL: it has none */
    uint32_t address;            /* outside; 0: the VMM's own network has none */
    bool gateway_knows_names;    /* ask it, else the plan's servers */
};

/* The JSON of the guest's config disk (wire/config_disk.h), for one incarnation. */
int spec_guest_config(struct buf *out, const struct spec *s, const char *id, uint64_t incarnation,
                      const struct spec_network *network, struct err *e);
