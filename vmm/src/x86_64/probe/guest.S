# The guest of the host probe: one instruction after the other that a Linux
# kernel and its user space cannot do without. Position independent; copied from
# drupe's own image into guest memory, kernel part and user part apart.
#
# In:  r15 FEATURE_* bits: which steps the host's CPUID promises
#      r13 a zeroed, writable kernel page    r12 a user page
#      rdi entry of the user part            rsi top of the user stack
# Out: byte writes to PORT_STEP (step begins), PORT_FAULT (exception vector, or
#      WRONG_RESULT) and PORT_DONE (MAGIC: all steps passed).
# The names in braces are constants of mod.rs.

    .pushsection .rodata.drupe_probe, "a", @progbits
    .globl drupe_probe_start, drupe_probe_user, drupe_probe_end

    .macro PROBE_STEP number
    mov al, \number
    out {port_step}, al
    .endm

    .balign 8
drupe_probe_start:
# Offset 0: one stub of 8 bytes for each exception.
    .irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    .balign 8
    mov al, \vector
    out {port_fault}, al
    hlt
    .endr
    .balign 8
# Offset INT3_HANDLER.
    or r14d, 1
    iretq
    .balign 16
# Offset ENTRY.
    PROBE_STEP {start}

    PROBE_STEP {int3}
    xor r14d, r14d
    int3
    test r14d, r14d
    jz 90f

    test r15d, {has_popcnt}
    jz 1f
    PROBE_STEP {popcnt}
    mov eax, 0xff
    popcnt eax, eax
    cmp eax, 8
    jne 90f

1:  test r15d, {has_cx16}
    jz 2f
    PROBE_STEP {cmpxchg16b}
    xor eax, eax
    xor edx, edx
    mov ebx, 5
    mov ecx, 7
    lock cmpxchg16b [r13]
    jne 90f
    cmp qword ptr [r13 + 8], 7
    jne 90f

2:  test r15d, {has_rdtscp}
    jz 3f
    PROBE_STEP {rdtscp}
    rdtscp

3:  test r15d, {has_fsgsbase}
    jz 4f
    PROBE_STEP {fsgsbase}
    mov rax, cr4
    bts rax, 16
    mov cr4, rax
    mov eax, 0x1234
    wrgsbase rax
    rdgsbase rbx
    cmp eax, ebx
    jne 90f

4:  test r15d, {has_xsave}
    jz 5f
    PROBE_STEP {xsave}
    mov rax, cr4
    bts rax, 18
    mov cr4, rax
    xor ecx, ecx
    xor edx, edx
    mov eax, 3
    xsetbv
    mov ebx, 0x5a5a
    movd xmm0, ebx
    mov eax, 3
    xsave [r13 + 0x100]
    pxor xmm0, xmm0
    mov eax, 3
    xrstor [r13 + 0x100]
    movd ecx, xmm0
    cmp ecx, ebx
    jne 90f

5:  test r15d, {has_smap}
    jz 6f
    PROBE_STEP {stac}
    mov rax, cr4
    bts rax, 21
    mov cr4, rax
    stac
    mov rbx, [r12]
    clac

6:  PROBE_STEP {msr}
    mov ecx, 0xc0000081             # STAR: kernel selectors from 0x08, user from 0x18
    xor eax, eax
    mov edx, 0x00180008
    wrmsr
    mov ecx, 0xc0000084             # FMASK
    mov eax, 0x47700
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000082             # LSTAR
    lea rax, [rip + 7f]
    mov rdx, rax
    shr rdx, 32
    wrmsr
    mov ebx, eax
    rdmsr
    cmp eax, ebx
    jne 90f

    PROBE_STEP {syscall}
    push 0x23
    push rsi
    push 2
    push 0x2b
    push rdi
    iretq

# System call entry; ebx says how often it was reached.
    .balign 16
7:  swapgs
    cmp ebx, 1
    jne 8f
    PROBE_STEP {sysret}
    swapgs
    sysretq
8:  cmp ebx, 2
    jne 90f
    mov al, {magic}
    out {port_done}, al
    hlt

90: mov al, {wrong_result}
    out {port_fault}, al
    hlt

    .balign 8
drupe_probe_user:
    mov ebx, 1
    syscall
    mov ebx, 2
    syscall
    ud2
drupe_probe_end:
    .purgem PROBE_STEP
    .popsection
