/* SPDX-License-Identifier: Apache-2.0 */
/* What a byte asks of the bare transport's other end (echo_init.c) before it comes back. */
#pragma once

enum echo_byte {
    ECHO_AT_ONCE = 'x',
    ECHO_RELAYED = 'r', /* through another program, behind two pipes, as an exec's input goes */
    ECHO_PROGRAM = 'p', /* once the image's /bin/true has run */
};
