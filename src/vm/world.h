/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the operations on instances work with.
 *
 * vm_env is immutable after start-up and may be read by any thread: directories,
 * the host's facts, the store (which has its own rules). vm_world belongs to the
 * loop thread: the table, the jobs, and what is in flight.
 */
#pragma once

#include <stdint.h>

#include "loop/fswatch.h"
#include "loop/jobs.h"
#include "store/store.h"
#include "trace/trace.h"
#include "vm/instance.h"
#include "vm/prober.h"
#include "vmm/vmm.h"

/* Each kind of job has its own threads and queue (loop/jobs.h): a stop never waits for a start. */
enum vm_job_kind {
    VM_JOB_START,               /* create, start */
    VM_JOB_STOP,                /* stop, delete, and undoing */
    VM_JOB_SNAPSHOT,            /* standby */
    VM_JOB_RESTORE,             /* restore, fork */
    VM_JOB_RESTORE_FIRECRACKER, /* the same; how many at once is a setting */
    VM_JOB_IMAGE, /* import, and the removal of files (see image/import.h: one at a time) */
    VM_JOB_NOTE,  /* beside the operations: exit records are read, memory is let go */
    N_VM_JOB_KINDS,
};
extern const struct job_limit vm_job_limits[N_VM_JOB_KINDS];

struct net;

struct vm_env {
    int data_fd;
    int instances_fd; /* <data>/instances: one directory an instance, named by its id */
    int images_fd;    /* <data>/images: one directory a digest */
    int templates_fd; /* <data>/templates: empty file systems to copy */
    const struct vmm_host *host;
    struct store *store;
    struct net
        *net; /* for net_bind() and net_plan(), which any thread may call; NULL: no network */
    char boot_id[BOOT_ID_SIZE];
    bool resume_in_load;           /* of VMMs that can; by setting */
    unsigned firecracker_restores; /* at once; 0: the default */
    bool identity_before_run;      /* see vm/freeze.h */
};

struct catalog;

struct vm_world {
    struct loop *loop;
    struct jobs *jobs;
    struct fswatcher *files; /* borrowed; NULL: logs are not limited */
    struct catalog *images;  /* borrowed; NULL: nobody counts the uses of images */
    struct net *net;         /* borrowed; NULL: no network */
    struct vm_env env;
    struct instance_table table;
    struct prober prober;
    struct trace_ring traces;     /* operations */
    struct trace_ring sessions;   /* commands and copies of clients */
    struct trace_ring reads;      /* lists, gets, and the questions that they led to */
    int64_t greeting_patience_ms; /* how long the agent of a restored guest may take to greet */
    int64_t snapshot_timeout_ms;  /* of a standby, and of a fork's capture of a running source */
    int64_t preempt_patience_ms;  /* how long a preempted job may take to unwind */
};

/* The environment's fds are owned by the caller. */
void world_init(struct vm_world *w, struct loop *loop, const struct vm_env *env);

/* Ends every job; each is answered. VMs live on. Runs the loop's posts; nothing starts any more. */
void world_stop(struct vm_world *w);

/* After world_stop(): lets go of every watch, frees the table. */
void world_fini(struct vm_world *w);

/*
 * What takes a disk long and nobody waits for, in a job; takes the fds. A file is closed that was
 * deleted while it was open; a snapshot that was used is removed (vm/snapshot.h).
 */
void world_close(struct vm_world *w, int fd);
void world_clear_snapshot(struct vm_world *w, int dir_fd, int withdrawn_fd);

/* A row that uses its image's files, and the end of it. */
struct instance *world_reserve(struct vm_world *w, const char *id, struct spec *spec);
void world_remove(struct vm_world *w, struct instance *row);

/* An instance's directory, for one job. The caller closes it. */
int env_open_instance(const struct vm_env *env, const char *id, struct err *e);
