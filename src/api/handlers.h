/* SPDX-License-Identifier: Apache-2.0 */
/* The handlers that api/routes.c names, one file a resource. Each owns its call and answers it. */
#pragma once

#include "api/api.h"

/* api/system.c */
void api_health(struct call *c);
void api_capabilities(struct call *c);
void api_spec_json(struct call *c);
void api_spec_yaml(struct call *c);
void api_planned(struct call *c); /* in the contract, not in this version: 501 */

/* api/read.c */
void api_instances_list(struct call *c);
void api_instances_get(struct call *c);

/* api/instances.c */
void api_instances_create(struct call *c);
void api_instances_update(struct call *c);
void api_instances_delete(struct call *c);
void api_instances_start(struct call *c);
void api_instances_stop(struct call *c);
void api_instances_standby(struct call *c);
void api_instances_restore(struct call *c);
void api_instances_fork(struct call *c);

/* api/events.c */
void api_events(struct call *c);

/* api/stats.c */
void api_instances_stats(struct call *c);

/* api/wait.c */
void api_instances_wait(struct call *c);

/* api/logs.c */
void api_instances_logs(struct call *c);

/* api/exec.c, api/cp.c, api/stat.c */
void api_instances_exec(struct call *c);
void api_instances_cp(struct call *c);
void api_instances_stat(struct call *c);

/* api/images.c */
void api_images_list(struct call *c);
void api_images_get(struct call *c);
void api_images_delete(struct call *c);
void api_images_import(struct call *c);

/* api/traces.c */
void api_debug_traces(struct call *c);
