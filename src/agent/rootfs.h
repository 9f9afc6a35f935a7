/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the initramfs to the image's own root: the kernel's file systems, the image
 * (/dev/vda, read-only), the writable disk over it (/dev/vdb), and the move.
 */
#pragma once

#include "base/err.h"

/* /proc, /sys, /dev and what belongs in them; the console becomes 0, 1 and 2. */
int mount_kernel_filesystems(struct err *e);

/* The file system type of the image by its superblock, "" when there is no disk or none that we
 * know. */
const char *image_type(void);

/*
 * Mounts the image with the writable disk over it and makes that the root.
 * Returns a directory of the writable disk's file system, for rootfs_close().
 */
int rootfs_enter(struct err *e);

/* When all processes are gone: everything on disk, and the file system marked clean. */
void rootfs_close(int writable_fd);
