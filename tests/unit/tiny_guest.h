/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel of a few bytes for tests of the drivers: an ELF file with a PVH note,
 * as a vmlinux has, so that no test needs a distribution's kernel.
 */
#pragma once

#include <elf.h>
#include <string.h>
#include <unistd.h>

enum { TINY_ENTRY = 0x100000, TINY_CODE_AT = 0x1000, TINY_NOTE_AT = 0x200, TINY_SIZE = 0x2000 };

/* Says "up" on the console and halts for good. */
static const unsigned char tiny_idle[] = {
    0x66,
    0xba,
    0xf8,
    0x03, /* mov dx, 0x3f8 */
    0xb0,
    'u',
    0xee, /* out dx, 'u' */
    0xb0,
    'p',
    0xee, /* out dx, 'p' */
    0xb0,
    '\n',
    0xee, /* out dx, newline */
    0xfa, /* cli */
    0xf4, /* hlt */
    0xeb,
    0xfd, /* back to the hlt */
};

/* Adds one to the word at 2 MiB for as long as it runs. */
static const unsigned char tiny_counter[] = {
    0xff,
    0x05,
    0x00,
    0x00,
    0x20,
    0x00, /* inc dword [0x200000] */
    0xeb,
    0xf8, /* again */
};

static inline int tiny_guest_write(int fd, const unsigned char *code, size_t n)
{
    static unsigned char image[TINY_SIZE];
    const struct {
        Elf32_Nhdr header;
        char name[4];
        uint32_t entry;
    } note = {{4, 4, 18}, "Xen", TINY_ENTRY}; /* XEN_ELFNOTE_PHYS32_ENTRY */
    Elf32_Ehdr header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
                         .e_type = ET_EXEC,
                         .e_machine = EM_386,
                         .e_version = EV_CURRENT,
                         .e_entry = TINY_ENTRY,
                         .e_phoff = sizeof(header),
                         .e_ehsize = sizeof(header),
                         .e_phentsize = sizeof(Elf32_Phdr),
                         .e_phnum = 2};
    const Elf32_Phdr segments[] = {{.p_type = PT_LOAD,
                                    .p_offset = TINY_CODE_AT,
                                    .p_vaddr = TINY_ENTRY,
                                    .p_paddr = TINY_ENTRY,
                                    .p_filesz = TINY_SIZE - TINY_CODE_AT,
                                    .p_memsz = TINY_SIZE - TINY_CODE_AT,
                                    .p_flags = PF_R | PF_W | PF_X},
                                   {.p_type = PT_NOTE,
                                    .p_offset = TINY_NOTE_AT,
                                    .p_filesz = sizeof(note),
                                    .p_memsz = sizeof(note),
                                    .p_align = 4}};

    memset(image, 0, sizeof(image));
    memcpy(image, &header, sizeof(header));
    memcpy(image + sizeof(header), segments, sizeof(segments));
    memcpy(image + TINY_NOTE_AT, &note, sizeof(note));
    memcpy(image + TINY_CODE_AT, code, n);
    return write(fd, image, sizeof(image)) == (ssize_t)sizeof(image) ? 0 : -1;
}
