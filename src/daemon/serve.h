/* SPDX-License-Identifier: Apache-2.0 */
/* "hypeman serve": the daemon, from its settings to its end. Returns the exit status. */
#pragma once

#define SERVE_USAGE "[--config FILE] [--data-dir DIR] [--listen ADDR:PORT] [--socket PATH]"

int daemon_serve(int argc, char **argv);
