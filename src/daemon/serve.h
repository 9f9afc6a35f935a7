/* SPDX-License-Identifier: Apache-2.0 */
/* "hypeman serve": the daemon, from its settings to its end. Returns the exit status. */
#pragma once

int daemon_serve(int argc, char **argv);
