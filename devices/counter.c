/* Counts what a guest of qemu's user emulation executes, and how much memory it holds: a TCG plugin (QEMU 7.2 to 8.2, plugin API version 1).
 *
 *     gcc -O2 -shared -fPIC -o counter.so counter.c
 *     EDGE_COUNTS=FILE qemu-aarch64 -plugin counter.so ...
 *
 * The guest marks a moment with the system call getsid(MARK), which the kernel refuses and which disturbs nothing. At each mark one line is
 * added to FILE and flushed, so that the guest can read it:
 *
 *     instructions dot matrix half resident peak
 *
 * The first four are totals since the start over all threads: instructions, and of these the Advanced SIMD ones that multiply and accumulate
 * int8 by dot product (SDOT, UDOT, USDOT, SUDOT), int8 by matrix product (SMMLA, UMMLA, USMMLA) and fp16 (FMLA, FMLS of vectors). The
 * encodings are those of the Arm Architecture Reference Manual for A-profile (DDI 0487), section C4.1, "Data Processing -- Scalar Floating-Point
 * and Advanced SIMD": "three same extra", "three same (FP16)" and "vector x indexed element". On other guests they stay zero.
 *
 * Instructions are counted by translated block when it is entered. qemu's inline counters lose counts when threads share them, so each thread
 * (vCPU) has a counter of its own.
 *
 * The last two are bytes of the guest's resident pages, now and at most so far; pages of qemu itself do not count. Resident memory falls only by
 * the system calls looked at here, so the peak lies just before one of them, or at a mark. Against the kernel's own account of the same x86-64 program
 * run natively: 0.3 MiB too much where a script allocates, 2 to 3 % where onnxruntime runs (its peaks differ by 8 % from run to run, too).
 */
#define _DEFAULT_SOURCE /* madvise */
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Prototypes of qemu-plugin.h, as documented in "QEMU TCG Plugins". Debian ships no header. */
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct {
    const char *target_name;
    struct {
        int min, cur;
    } version;
} qemu_info_t;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*udata_cb)(unsigned int vcpu, void *userdata);
typedef void (*syscall_ret_cb)(qemu_plugin_id_t, unsigned int vcpu, int64_t number, int64_t result);
typedef void (*syscall_cb)(qemu_plugin_id_t, unsigned int vcpu, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, udata_cb, enum qemu_plugin_cb_flags, void *userdata);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_cb);
void qemu_plugin_register_vcpu_syscall_ret_cb(qemu_plugin_id_t, syscall_ret_cb);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

#define MARK (-0x45444745) /* "EDGE"; bench/worker/probes/counts.py names the same number */
#define THREADS 1024

enum kind { INSTRUCTIONS, DOT, MATRIX, HALF, KINDS };
typedef struct {
    uint64_t of[KINDS];
} __attribute__((aligned(64))) counts_t;

static counts_t counters[THREADS];

/* System calls by which resident memory can fall, and the one that marks (asm-generic/unistd.h, arch/x86/entry/syscalls/syscall_64.tbl). */
static const struct syscalls {
    const char *target;
    int64_t getsid, munmap, mremap, brk, madvise, mmap;
} known[] = {{"aarch64", 156, 215, 216, 214, 233, 222}, {"x86_64", 124, 11, 25, 12, 28, 9}};
static const struct syscalls *syscalls;
static bool is_aarch64;

static FILE *out;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t peak, own_pages, heap_end;

/* Guest addresses lie below: qemu places the guest's mappings upwards from 0x4000000000 or 0x5500000000, and Linux puts qemu's own far above. */
#define GUEST_END (UINT64_C(1) << 40)

static enum kind kind_of(uint32_t code)
{
    static const struct {
        uint32_t mask, value;
        enum kind kind;
    } classes[] = {
        {0x9fe0fc00, 0x0e809400, DOT},    /* SDOT, UDOT (vector) */
        {0xbfe0fc00, 0x0e809c00, DOT},    /* USDOT (vector) */
        {0x9fc0f400, 0x0f80e000, DOT},    /* SDOT, UDOT (by element) */
        {0xbf40f400, 0x0f00f000, DOT},    /* SUDOT, USDOT (by element) */
        {0xdfe0fc00, 0x4e80a400, MATRIX}, /* SMMLA, UMMLA */
        {0xffe0fc00, 0x4e80ac00, MATRIX}, /* USMMLA */
        {0xbf60fc00, 0x0e400c00, HALF},   /* FMLA, FMLS (vector, half precision) */
        {0xbfc0b400, 0x0f001000, HALF},   /* FMLA, FMLS (by element, half precision) */
    };
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if ((code & classes[i].mask) == classes[i].value)
            return classes[i].kind;
    return INSTRUCTIONS;
}

static counts_t *counter_of(unsigned int vcpu)
{
    if (vcpu >= THREADS) {
        fprintf(stderr, "counter: more than %d threads\n", THREADS);
        abort();
    }
    return &counters[vcpu];
}

static void executed(unsigned int vcpu, void *block)
{
    counts_t *counter = counter_of(vcpu);
    const counts_t *each = block;
    for (int kind = 0; kind < KINDS; kind++)
        counter->of[kind] += each->of[kind];
}

static void executed_plain(unsigned int vcpu, void *instructions)
{
    counter_of(vcpu)->of[INSTRUCTIONS] += (uintptr_t)instructions;
}

/* Most blocks hold none of the kinds, and their count travels in the pointer. The others' counts are kept for as long as qemu may run them. */
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    counts_t block = {{qemu_plugin_tb_n_insns(tb)}};
    (void)id;
    for (size_t i = 0; is_aarch64 && i < block.of[INSTRUCTIONS]; i++) {
        uint32_t code;
        memcpy(&code, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), sizeof code);
        enum kind kind = kind_of(code);
        if (kind != INSTRUCTIONS)
            block.of[kind]++;
    }
    if (block.of[DOT] | block.of[MATRIX] | block.of[HALF]) {
        counts_t *kept = aligned_alloc(64, sizeof block);
        if (!kept)
            abort();
        *kept = block;
        qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, QEMU_PLUGIN_CB_NO_REGS, kept);
    } else {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, executed_plain, QEMU_PLUGIN_CB_NO_REGS, (void *)(uintptr_t)block.of[INSTRUCTIONS]);
    }
}

/* Resident pages of this whole process, qemu's own among them. */
static uint64_t all_pages(void)
{
    unsigned long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%lu %lu", &size, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return resident;
}

/* Bytes of the guest's resident pages, from /proc/self/smaps (proc(5)). */
static uint64_t guest_resident(void)
{
    char line[4352];
    uint64_t start = 0, end, kib = 0;
    unsigned long rss;
    FILE *file = fopen("/proc/self/smaps", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
            continue;
        if (start < GUEST_END && sscanf(line, "Rss: %lu", &rss) == 1)
            kib += rss;
    }
    if (file)
        fclose(file);
    return kib * 1024;
}

/* qemu's own memory only grows, so what is resident beyond it cannot have passed the peak while the whole has not: the maps need not be read.
   statm may lag by some pages a processor, hence the slack. */
static uint64_t look(bool always)
{
    uint64_t page = sysconf(_SC_PAGESIZE), slack = 64 * sysconf(_SC_NPROCESSORS_ONLN), all = all_pages(), resident;
    if (!always && (all + slack - own_pages) * page <= peak)
        return 0;
    resident = guest_resident();
    own_pages = all > resident / page ? all - resident / page : 0;
    if (resident > peak)
        peak = resident;
    return resident;
}

static void mark(void)
{
    counts_t total = {{0}};
    uint64_t resident = look(true);
    for (int thread = 0; thread < THREADS; thread++)
        for (int kind = 0; kind < KINDS; kind++)
            total.of[kind] += counters[thread].of[kind];
    for (int kind = 0; kind < KINDS; kind++)
        fprintf(out, "%" PRIu64 " ", total.of[kind]);
    fprintf(out, "%" PRIu64 " %" PRIu64 "\n", resident, peak);
    fflush(out);
}

/* Where the heap shrinks, Linux takes its pages back; qemu 7.2 keeps them, though no program may touch them. */
static void shrink_heap(uint64_t end)
{
    uint64_t page = sysconf(_SC_PAGESIZE), first = (end + page - 1) & -page, last = (heap_end + page - 1) & -page;
    if (first < last && last < GUEST_END)
        madvise((void *)first, last - first, MADV_DONTNEED);
}

static void called(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5,
                   uint64_t a6, uint64_t a7, uint64_t a8)
{
    bool marks = number == syscalls->getsid && (int32_t)a1 == MARK;
    bool shrinks = number == syscalls->brk && a1 && a1 < heap_end;
    /* of mmap only MAP_FIXED (0x10) takes pages away */
    bool frees = number == syscalls->munmap || number == syscalls->mremap || number == syscalls->madvise || (number == syscalls->mmap && a4 & 0x10);
    (void)id, (void)vcpu, (void)a2, (void)a3, (void)a5, (void)a6, (void)a7, (void)a8;
    if (!marks && !shrinks && !frees)
        return;
    pthread_mutex_lock(&lock);
    if (marks)
        mark();
    else
        look(false);
    if (shrinks)
        shrink_heap(a1);
    pthread_mutex_unlock(&lock);
}

static void returned(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, int64_t result)
{
    (void)id, (void)vcpu;
    if (number != syscalls->brk)
        return;
    pthread_mutex_lock(&lock);
    heap_end = result;
    pthread_mutex_unlock(&lock);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    const char *path = getenv("EDGE_COUNTS");
    (void)argc, (void)argv;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].target, info->target_name))
            syscalls = &known[i];
    is_aarch64 = !strcmp(info->target_name, "aarch64");
    if (!syscalls || !path || !(out = fopen(path, "w"))) {
        fprintf(stderr, "counter: needs EDGE_COUNTS=FILE that can be written, and an aarch64 or x86_64 guest\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_vcpu_syscall_ret_cb(id, returned);
    return 0;
}
