/* SPDX-License-Identifier: Apache-2.0 */
#include "change.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "rig.h"

enum { ROOM = 128 << 20 };

static void expect_lack(int rc, const struct err *e)
{
    assert_int_equal(rc, -1);
    assert_int_equal(e->code, ERR_UNSUPPORTED);
    assert_non_null(strstr(e->msg, " cannot "));
}

static void expect_done(int rc, const struct err *e)
{
    if (rc < 0)
        fail_msg("%s", e->msg);
}

static void boot_with_room(struct rig *r)
{
    struct vmm_boot b;

    rig_init(r, NULL);
    b = boot_of(r);
    b.max_vcpus = 2;
    b.hotplug_bytes = ROOM;
    b.balloon = true;
    boot_with(r, &b);
}

void cpus_and_memory_come_and_go_while_it_runs(void **state)
{
    struct op op = within(20000);
    struct err e = {0};
    struct rig r;

    (void)state;
    boot_with_room(&r);
    if (!subject.driver->resize) {
        expect_lack(vmm_resize(&op, &r.vm, 2, 0, &e), &e);
        rig_end(&r);
        return;
    }
    expect_done(vmm_resize(&op, &r.vm, 2, 0, &e), &e);
    expect_done(vmm_resize(&op, &r.vm, 0, MEMORY + ROOM, &e), &e);
    expect_done(vmm_resize(&op, &r.vm, 1, MEMORY, &e), &e);
    assert_int_equal(vmm_resize(&op, &r.vm, 3, 0, &e), -1);
    err_clear(&e);
    assert_int_equal(vmm_resize(&op, &r.vm, 0, MEMORY + 2 * ROOM, &e), -1);
    assert_int_equal(e.code, ERR_INTERNAL);
    assert_int_equal(status_of(&r), VMM_STATUS_RUNNING);
    rig_end(&r);
}

void a_vm_with_room_for_more_sleeps_and_is_forked(void **state)
{
    struct vmm_load what;
    struct err e = {0};
    struct rig source;
    struct rig fork;
    bool runs;

    (void)state;
    boot_with_room(&source);
    (void)sleep_vm(&source, -1);
    clone_rig(&source, &fork, false);
    what = load_of(&fork, true);
    what.boot.max_vcpus = 2;
    what.boot.hotplug_bytes = ROOM;
    what.boot.balloon = true;
    if (try_load(&fork, &what, &runs, &e) < 0)
        fail_msg("%s", e.msg);
    assert_true(runs);
    (void)sleep_vm(&fork, -1);
    rig_end_one(&fork);
    rig_end(&source);
}

static int try_save(struct rig *r, struct err *e)
{
    struct op op = within(20000);
    struct vmm_save save = {0};
    int rc;

    assert_int_equal(mkdirat(r->dir_fd, "new", 0700), 0);
    save.snapshot_dir_fd = dir_open(r->dir_fd, "new", e);
    rc = vmm_save(&op, &r->vm, &save, e);
    close(save.snapshot_dir_fd);
    return rc;
}

/* The real ones' guest has no driver that takes it. */
void memory_that_was_added_is_not_saved_in_silence(void **state)
{
    struct op op = within(20000);
    struct err e = {0};
    struct rig r;

    (void)state;
    if (lacks(subject.driver->resize && subject.is_double, "a guest that takes memory"))
        return;
    boot_with_room(&r);
    expect_done(vmm_resize(&op, &r.vm, 0, MEMORY + ROOM, &e), &e);
    pause_vm(&r);
    assert_int_equal(try_save(&r, &e), -1);
    assert_int_equal(e.code, ERR_BAD_STATE);
    assert_non_null(strstr(e.msg, "take it back"));
    resume_vm(&r);
    err_clear(&e);
    expect_done(vmm_resize(&op, &r.vm, 0, MEMORY, &e), &e);
    (void)sleep_vm(&r, -1);
    rig_end(&r);
}

/* The real Firecracker asks the guest for a driver, which ours has not. */
void the_balloon_is_set_while_it_runs(void **state)
{
    struct op op = within(20000);
    struct err e = {0};
    struct rig r;

    (void)state;
    boot_with_room(&r);
    if (!subject.driver->set_balloon) {
        expect_lack(vmm_set_balloon(&op, &r.vm, 4 << 20, &e), &e);
    } else if (subject.is_firecracker && !subject.is_double) {
        assert_int_equal(vmm_set_balloon(&op, &r.vm, 4 << 20, &e), -1);
        assert_non_null(strstr(e.msg, "not activated"));
        assert_int_equal(status_of(&r), VMM_STATUS_RUNNING);
    } else {
        expect_done(vmm_set_balloon(&op, &r.vm, 4 << 20, &e), &e);
        expect_done(vmm_set_balloon(&op, &r.vm, 0, &e), &e);
    }
    rig_end(&r);
}

void a_disk_comes_and_goes_while_it_runs(void **state)
{
    const struct vmm_disk disk = {.id = "extra", .file = "extra.raw"};
    const struct vmm_disk missing = {.id = "missing", .file = "missing.raw"};
    struct op op = within(20000);
    struct err e = {0};
    struct rig r;

    (void)state;
    boot_with_room(&r);
    make_file(r.dir_fd, "extra.raw", 1 << 20);
    if (subject.driver->add_disk) {
        expect_done(vmm_add_disk(&op, &r.vm, &disk, &e), &e);
        expect_done(vmm_remove_device(&op, &r.vm, "extra", &e), &e);
        assert_int_equal(vmm_add_disk(&op, &r.vm, &missing, &e), -1);
        err_clear(&e);
        assert_int_equal(vmm_remove_device(&op, &r.vm, "nothing", &e), -1);
        assert_int_equal(status_of(&r), VMM_STATUS_RUNNING);
    } else {
        expect_lack(vmm_add_disk(&op, &r.vm, &disk, &e), &e);
        err_clear(&e);
        expect_lack(vmm_remove_device(&op, &r.vm, "extra", &e), &e);
    }
    rig_end(&r);
}

void a_card_comes_and_goes_while_it_runs(void **state)
{
    auto_close int tap_fd = hold_tap("hmconf4");
    const struct vmm_card card = {.id = "net1", .mac = "02:00:00:00:00:03", .tap_fd = tap_fd};
    struct op op = within(20000);
    struct err e = {0};
    struct rig r;

    (void)state;
    boot_with_room(&r);
    if (!subject.driver->add_card) {
        expect_lack(vmm_add_card(&op, &r.vm, &card, &e), &e);
    } else if (!lacks(tap_fd >= 0, "the right to make a tap")) {
        expect_done(vmm_add_card(&op, &r.vm, &card, &e), &e);
        expect_done(vmm_remove_device(&op, &r.vm, "net1", &e), &e);
    }
    rig_end(&r);
}

void what_its_devices_did_is_counted(void **state)
{
    struct op op = within(20000);
    struct vmm_counters counted;
    struct err e = {0};
    struct rig r;

    (void)state;
    boot_with_room(&r);
    if (subject.driver->count)
        expect_done(vmm_count(&op, &r.vm, &counted, &e), &e);
    else
        expect_lack(vmm_count(&op, &r.vm, &counted, &e), &e);
    if (subject.is_double && subject.driver->count) {
        assert_int_equal(counted.disk_read_bytes, 8192);
        assert_int_equal(counted.disk_writes, 2);
        assert_int_equal(counted.net_out_bytes, 200);
    }
    rig_end(&r);
}
