/* SPDX-License-Identifier: Apache-2.0 */
/* Copies and questions about files, against the real agent's workers: without a VM, on files of
 * this host. */
#include "guest_fixture.h"

static char *in_root(const struct fixture *f, const char *name)
{
    return mem_printf("%s/%s", f->root, name);
}

static void sh(const struct fixture *f, const char *script)
{
    auto_free char *command = mem_printf("cd %s && %s", f->root, script);

    assert_int_equal(system(command), 0);
}

static void sh_says(const struct fixture *f, const char *script, const char *want)
{
    auto_free char *command = mem_printf("cd %s && (%s) > said 2>&1", f->root, script);
    auto_free char *path = in_root(f, "said");
    char text[4096] = {0};
    FILE *file;

    assert_int_equal(system(command), 0);
    file = fopen(path, "re");
    assert_non_null(file);
    (void)!fread(text, 1, sizeof(text) - 1, file);
    (void)fclose(file);
    assert_string_equal(text, want);
}

static void begin_in(struct work *w, const char *root)
{
    auto_free char *path = in_root(w->f, root);
    struct err e = {0};

    w->stream = guest_copy_in(w->f->row, path, &events, w, &e);
    assert_non_null(w->stream);
}

static void begin_out(struct work *w, const char *name, bool follow)
{
    auto_free char *path = in_root(w->f, name);
    struct err e = {0};

    w->stream = guest_copy_out(w->f->row, &(struct guest_tree){path, follow, true}, &events, w, &e);
    assert_non_null(w->stream);
}

/* --- a list of entries that goes in as fast as there is room --- */

struct piece {
    struct guest_entry entry;
    const char *content;
    size_t len;
};

struct pieces {
    struct work w;
    const struct piece *next;
    bool in_content;
};

static void feed_pieces(void *owner)
{
    struct pieces *p = container_of((struct work *)owner, struct pieces, w);

    for (; p->next->entry.path; p->next++) {
        size_t n;

        if (!p->in_content) {
            if (!guest_put_entry(p->w.stream, &p->next->entry))
                return;
            p->w.input = p->next->content;
            p->w.input_len = p->next->len;
            p->in_content = true;
        }
        n = guest_write(p->w.stream, p->w.input, p->w.input_len);
        p->w.input += n;
        p->w.input_len -= n;
        if (p->w.input_len > 0)
            return;
        p->in_content = false;
    }
    guest_end_input(p->w.stream);
}

static const struct guest_events feeding = {on_data, on_entry, feed_pieces, on_end};

static struct guest_end copy_in_pieces(struct fixture *f, const char *root,
                                       const struct piece *pieces)
{
    struct pieces p = {.w = work_in(f), .next = pieces};
    auto_free char *path = in_root(f, root);
    struct err e = {0};

    p.w.stream = guest_copy_in(f->row, path, &feeding, &p.w, &e);
    assert_non_null(p.w.stream);
    feed_pieces(&p.w);
    run(f);
    work_free(&p.w);
    return p.w.end;
}

#define ENTRY(k, p, m)                                                                             \
    {                                                                                              \
        .kind = (k), .path = (p), .mode = (m)                                                      \
    }
#define TIMED(k, p, m)                                                                             \
    {                                                                                              \
        .kind = (k), .path = (p), .mode = (m), .has_mtime = true, .mtime_s = 1000000000            \
    }

static void a_tree_goes_in(void **state)
{
    struct fixture *f = *state;
    const struct piece tree[] = {
        {TIMED(GUEST_DIRECTORY, "top", 0755), NULL, 0},
        {TIMED(GUEST_DIRECTORY, "top/sub", 0500), NULL, 0},
        {TIMED(GUEST_FILE, "top/sub/a", 0640), "hello", 5},
        {ENTRY(GUEST_FILE, "top/sub/empty", 04755), "", 0},
        {{.kind = GUEST_SYMLINK, .path = "top/link", .link_target = "sub/a"}, NULL, 0},
        {TIMED(GUEST_FILE, "new/parents/\xff\xfe b", 0600), "x", 1},
        {{0}, NULL, 0},
    };
    struct guest_end end = copy_in_pieces(f, "dest", tree);

    assert_true(end.ok);
    assert_int_equal(end.bytes, 6);
    sh_says(
        f,
        "cd dest; stat -c '%n %a %F %Y' top top/sub top/sub/a; stat -c '%n %a %F' top/sub/empty "
        "new/parents; readlink top/link; cat top/sub/a; cat new/parents/*b",
        "top 755 directory 1000000000\ntop/sub 500 directory 1000000000\n"
        "top/sub/a 640 regular file 1000000000\ntop/sub/empty 4755 regular empty file\n"
        "new/parents 755 directory\nsub/a\nhellox");
}

static void nothing_gets_out_of_the_root(void **state)
{
    struct fixture *f = *state;
    const struct piece climbs[] = {{ENTRY(GUEST_FILE, "../../up", 0644), "x", 1}, {{0}, NULL, 0}};
    const struct piece follows[] = {
        {{.kind = GUEST_SYMLINK, .path = "out", .link_target = "../outside"}, NULL, 0},
        {ENTRY(GUEST_FILE, "out/b", 0644), "x", 1},
        {{.kind = GUEST_SYMLINK, .path = "abs", .link_target = "/tmp"}, NULL, 0},
        {ENTRY(GUEST_FILE, "abs/hypeman-never", 0644), "x", 1},
        {{0}, NULL, 0}};

    sh(f, "mkdir dest outside");
    assert_true(copy_in_pieces(f, "dest", climbs).ok);
    (void)copy_in_pieces(f, "dest", follows);
    sh(f, "test -f dest/up && ! test -e up && ! test -e ../up");
    sh(f, "! test -e outside/b && ! test -e /tmp/hypeman-never");
}

#define HARD(p, to)                                                                                \
    {                                                                                              \
        .kind = GUEST_HARD_LINK, .path = (p), .mode = 0644, .link_target = (to)                    \
    }

static void files_with_several_names_stay_one(void **state)
{
    struct fixture *f = *state;
    const struct piece tree[] = {
        {ENTRY(GUEST_FILE, "t/a", 0640), "hello", 5},
        {HARD("t/a", "t/a"), NULL, 0},
        {HARD("t/sub/b", "t/a"), NULL, 0},
        {HARD("t/was", "t/a"), NULL, 0},
        {{0}, NULL, 0},
    };
    struct work w;

    sh(f, "mkdir -p dest/t; echo before > dest/t/was");
    assert_true(copy_in_pieces(f, "dest", tree).ok);
    sh_says(f, "cd dest/t; stat -c '%h %a %s' a; test a -ef sub/b && test a -ef was", "3 640 5\n");
    sh(f, "ln -s a dest/t/soft; echo single > dest/t/x");
    w = work_in(f);
    begin_out(&w, "dest/t", false);
    run(f);
    assert_true(w.end.ok);
    assert_string_equal(
        buf_str(&w.names),
        "d t\nf t/a\nl t/soft -> a\nd t/sub\nh t/sub/b -> t/a\nh t/was -> t/a\nf t/x\n");
    assert_string_equal(buf_str(&w.out), "hellosingle\n");
    work_free(&w);
}

static void a_hard_link_leads_nowhere_outside(void **state)
{
    struct fixture *f = *state;
    const struct piece climbs[] = {{HARD("stolen", "../secret"), NULL, 0}, {{0}, NULL, 0}};
    const struct piece through[] = {
        {{.kind = GUEST_SYMLINK, .path = "up", .link_target = ".."}, NULL, 0},
        {HARD("stolen", "up/secret"), NULL, 0},
        {{0}, NULL, 0}};
    const struct piece directory[] = {
        {ENTRY(GUEST_DIRECTORY, "d", 0755), NULL, 0}, {HARD("d2", "d"), NULL, 0}, {{0}, NULL, 0}};
    struct guest_end end;

    sh(f, "mkdir dest; echo secret > secret");
    end = copy_in_pieces(f, "dest", climbs);
    assert_string_equal(end.err.msg, "cannot link stolen to ../secret: No such file or directory");
    assert_false(copy_in_pieces(f, "dest", through).ok);
    assert_false(copy_in_pieces(f, "dest", directory).ok);
    sh(f, "test $(stat -c %h secret) = 1 && ! test -e dest/stolen");
}

static void what_cannot_be_made_is_named(void **state)
{
    struct fixture *f = *state;
    const struct piece onto_dir[] = {{ENTRY(GUEST_FILE, "d", 0644), "x", 1}, {{0}, NULL, 0}};
    const struct piece onto_file[] = {{ENTRY(GUEST_DIRECTORY, "f", 0755), NULL, 0}, {{0}, NULL, 0}};
    const struct piece onto_fifo[] = {{ENTRY(GUEST_FILE, "p", 0644), "x", 1}, {{0}, NULL, 0}};
    struct guest_end end;

    sh(f, "mkdir -p dest/d && touch dest/f && mkfifo dest/p");
    end = copy_in_pieces(f, "dest", onto_dir);
    assert_false(end.ok);
    assert_string_equal(end.err.msg, "cannot copy file: d is a directory");
    end = copy_in_pieces(f, "dest", onto_file);
    assert_string_equal(end.err.msg, "cannot create directory: f is a file");
    end = copy_in_pieces(f, "dest", onto_fifo);
    assert_string_equal(end.err.msg, "cannot copy file: p is no file");
}

static void zeros_become_holes_and_holes_come_back_as_zeros(void **state)
{
    struct fixture *f = *state;
    size_t len = 3 * 1024 * 1024 + 17;
    auto_free char *content = mem_zalloc(1, len);
    const struct piece sparse[] = {{ENTRY(GUEST_FILE, "s", 0644), content, len}, {{0}, NULL, 0}};
    struct work w;

    memset(content + 1000000, 'x', 5000);
    assert_true(copy_in_pieces(f, ".", sparse).ok);
    w = work_in(f);
    sh(f, "test $(stat -c %s s) = 3145745 && test $(stat -c %b s) -le 32");
    begin_out(&w, "s", false);
    run(f);
    assert_true(w.end.ok);
    assert_int_equal(w.end.bytes, len);
    assert_int_equal(w.out.len, len);
    assert_memory_equal(w.out.data, content, len);
    work_free(&w);
}

static void a_file_that_looks_like_the_protocol_is_a_file(void **state)
{
    struct fixture *f = *state;
    char content[FRAME_HEADER + WIRE_MAGIC_LEN] = {0, 0, 0, 0, FRAME_DONE};
    const struct piece odd[] = {{ENTRY(GUEST_FILE, "odd", 0644), content, sizeof(content)},
                                {{0}, NULL, 0}};
    struct work w;

    memcpy(content + FRAME_HEADER, wire_magic, WIRE_MAGIC_LEN);
    assert_true(copy_in_pieces(f, ".", odd).ok);
    w = work_in(f);
    begin_out(&w, "odd", false);
    run(f);
    assert_true(w.end.ok);
    assert_int_equal(w.out.len, sizeof(content));
    assert_memory_equal(w.out.data, content, sizeof(content));
    work_free(&w);
}

static void a_tree_comes_out_sorted_and_without_what_is_no_file(void **state)
{
    struct fixture *f = *state;
    struct work w = work_in(f);
    struct work followed = work_in(f);

    sh(f,
       "mkdir -p t/b t/c && echo 1 > t/b/x && echo 22 > t/a && mkfifo t/pipe && ln -s b/x t/l && "
       "ln -s nowhere t/z && ln -s . t/c/up && ln -s b t/d");
    begin_out(&w, "t", false);
    begin_out(&followed, "t/", true);
    run(f);
    assert_true(w.end.ok);
    assert_string_equal(
        buf_str(&w.names),
        "d t\nf t/a\nd t/b\nf t/b/x\nd t/c\nl t/c/up -> .\nl t/d -> b\nl t/l -> b/x\n"
        "l t/z -> nowhere\n");
    assert_string_equal(buf_str(&w.out), "22\n1\n");
    assert_string_equal(buf_str(&followed.names),
                        "d t\nf t/a\nd t/b\nf t/b/x\nd t/c\nl t/c/up -> .\nd t/d\nf t/d/x\nf t/l\n"
                        "l t/z -> nowhere\n");
    work_free(&w);
    work_free(&followed);
}

static void what_is_not_there_is_not_found(void **state)
{
    struct fixture *f = *state;
    struct work w = work_in(f);

    begin_out(&w, "nothing", false);
    run(f);
    assert_false(w.end.ok);
    assert_int_equal(w.end.err.code, ERR_NOT_FOUND);
    assert_non_null(strstr(w.end.err.msg, "nothing: no such file or directory"));
    work_free(&w);
}

static void begin_stat(struct work *w, const char *name, bool follow)
{
    auto_free char *path = in_root(w->f, name);
    struct err e = {0};

    w->stream = guest_stat(w->f->row, path, follow, &events, w, &e);
    assert_non_null(w->stream);
}

static void stat_tells_of_one_thing(void **state)
{
    struct fixture *f = *state;
    struct work link = work_in(f);
    struct work target = work_in(f);
    struct work pipe = work_in(f);
    struct work none = work_in(f);

    sh(f, "mkdir d; ln -s d l; mkfifo p");
    begin_stat(&link, "l", false);
    begin_stat(&target, "l", true);
    begin_stat(&pipe, "p", false);
    begin_stat(&none, "n", false);
    run(f);
    assert_int_equal(buf_str(&link.names)[0], 'l');
    assert_non_null(strstr(buf_str(&link.names), " -> d\n"));
    assert_int_equal(buf_str(&target.names)[0], 'd');
    assert_int_equal(buf_str(&pipe.names)[0], '?');
    assert_int_equal(none.end.err.code, ERR_NOT_FOUND);
    work_free(&link);
    work_free(&target);
    work_free(&pipe);
    work_free(&none);
}

static void what_is_still_in_the_pipe_when_a_worker_is_done_comes_too(void **state)
{
    struct fixture *f = *state;
    struct work w = work_in(f);

    sh(f, "head -c 3000001 /dev/urandom > big");
    begin_out(&w, "big", false);
    run(f);
    assert_true(w.end.ok);
    assert_int_equal(w.out.len, 3000001);
    work_free(&w);
}

/* The worker's pipe fills up; teardown waits until it is gone. */
static void a_copy_that_nobody_reads_is_bounded_and_ends_with_its_client(void **state)
{
    struct fixture *f = *state;
    struct work held = work_in(f);
    struct work other = work_in(f);

    sh(f, "head -c 3000000 /dev/urandom > big; mkdir many; cd many; seq 5000 | xargs touch");
    held.holds = true;
    begin_out(&held, "big", false);
    begin_out(&other, "many", false);
    f->running--;
    run(f);
    assert_true(other.end.ok);
    assert_true(held.total <= GUEST_COPY_WINDOW);
    assert_false(held.has_ended);
    work_free(&held);
    work_free(&other);
}

static void a_copy_in_that_is_not_completed_leaves_no_worker(void **state)
{
    struct fixture *f = *state;
    struct work w = work_in(f);
    struct work other = work_in(f);

    begin_in(&w, "half");
    begin_stat(&other, ".", false);
    f->running--;
    run(f);
    (void)guest_put_entry(w.stream, &(struct guest_entry)ENTRY(GUEST_FILE, "x", 0644));
    work_free(&w);
    work_free(&other);
}

static pid_t first_child(pid_t of)
{
    auto_free char *path = mem_printf("/proc/%d/task/%d/children", of, of);
    FILE *file = fopen(path, "re");
    pid_t child = 0;

    assert_non_null(file);
    assert_int_equal(fscanf(file, "%d", &child), 1);
    (void)fclose(file);
    return child;
}

static void look_around(struct fixture *f)
{
    struct work asked = work_in(f);

    begin_stat(&asked, ".", false);
    run(f);
    work_free(&asked);
}

/* What is answered later comes behind what was given back before. */
static void a_worker_that_takes_nothing_is_sent_no_more_than_a_window(void **state)
{
    enum { LEN = 3 * GUEST_COPY_WINDOW };
    struct fixture *f = *state;
    auto_free char *content = mem_zalloc(1, LEN);
    struct work w = work_in(f);
    pid_t worker;

    memset(content, 'x', LEN);
    begin_in(&w, ".");
    f->running--;
    look_around(f);
    worker = first_child(f->agent);
    assert_int_equal(kill(worker, SIGSTOP), 0);
    assert_true(guest_put_entry(w.stream, &(struct guest_entry)ENTRY(GUEST_FILE, "x", 0644)));
    w.input = content;
    w.input_len = LEN;
    w.ends_input = true;
    feed(&w);
    for (int i = 0; i < 3; i++)
        look_around(f);
    assert_in_range(LEN - w.input_len, GUEST_COPY_WINDOW / 2, GUEST_COPY_WINDOW);
    assert_int_equal(kill(worker, SIGCONT), 0);
    f->running++;
    run(f);
    assert_true(w.end.ok);
    assert_int_equal(w.end.bytes, LEN);
    work_free(&w);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        guest_test(a_tree_goes_in),
        guest_test(nothing_gets_out_of_the_root),
        guest_test(what_cannot_be_made_is_named),
        guest_test(files_with_several_names_stay_one),
        guest_test(a_hard_link_leads_nowhere_outside),
        guest_test(zeros_become_holes_and_holes_come_back_as_zeros),
        guest_test(a_file_that_looks_like_the_protocol_is_a_file),
        guest_test(a_tree_comes_out_sorted_and_without_what_is_no_file),
        guest_test(what_is_not_there_is_not_found),
        guest_test(stat_tells_of_one_thing),
        guest_test(what_is_still_in_the_pipe_when_a_worker_is_done_comes_too),
        guest_test(a_copy_that_nobody_reads_is_bounded_and_ends_with_its_client),
        guest_test(a_copy_in_that_is_not_completed_leaves_no_worker),
        guest_test(a_worker_that_takes_nothing_is_sent_no_more_than_a_window),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
