/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel of a few dozen instructions: an ELF file with a PVH note, as a vmlinux
 * has, so that QEMU, Firecracker and Cloud Hypervisor all start it, and so small
 * that it runs where KVM only interprets.
 *
 * It says "up" on the serial port and then, by how it was built:
 *   TINY_COUNT  adds one to the word at 2 MiB for as long as it runs
 *   TINY_IDLE   halts for good
 *   TINY_RESET  resets the machine through the keyboard controller
 */
#define SERIAL 0x3f8
#define KEYBOARD 0x64
#define PULSE_RESET 0xfe
#define COUNT_AT 0x200000

        .section .note.pvh, "a", @note
        .align 4
        .long 4                         /* of the name */
        .long 4                         /* of the entry */
        .long 18                        /* XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz "Xen"
        .long start

        .text
        .code32
        .globl start
start:
        mov $text, %esi
1:      lodsb
        test %al, %al
        jz 2f
        mov $SERIAL, %dx
        outb %al, %dx
        jmp 1b
2:
#if defined(TINY_COUNT)
        incl COUNT_AT
        jmp 2b
#elif defined(TINY_RESET)
        mov $PULSE_RESET, %al
        outb %al, $KEYBOARD
#endif
3:      cli
        hlt
        jmp 3b

text:   .asciz "up\n"
        .section .note.GNU-stack, "", @progbits
