/* The cards of the stand-in NVML library: the file that says what they are, and the claims of the processes that hold
 * their memory. What fake_nvml.c is about is said there; nothing here is a function of NVML. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    GPU_IS_LOST = 15, GPU_NOT_FOUND = 28,
    GPUS = 16, MIGS = 8, ERRORS = 32, NAME = 80, PATH = 4096, PROCESSES = 256
};

typedef unsigned long long u64;

struct device {
    int present, status, major, minor, temperature, utilisation;
    long long reasons; /* -1: not supported, as with the two before */
    u64 total, used;
    char name[NAME];
};
struct answer { char function[NAME]; int code, index; };
struct state {
    struct device devices[GPUS][1 + MIGS]; /* [i][0] is the GPU, [i][1 + n] its MIG instance n */
    struct answer errors[ERRORS];
    int init, error_count, leak, no_lists, no_bytes;
    double lag;
    char driver[NAME], hung[NAME];
    double hang_s;
};
struct process { unsigned pid; u64 bytes; unsigned gpu_instance, compute_instance; }; /* nvmlProcessInfo_v2_t, as v3 */

static int initialised;
static int fallen[GPUS];                   /* seen lost since nvmlInit */
static char handles[GPUS][1 + MIGS];       /* a handle is the address of one of these */

/* The file */

static void read_line(struct state *state, const char *line) {
    int index, number, code, major, minor;
    u64 total, used;
    long long value;
    double seconds;
    char word[NAME], text[NAME];
    if (sscanf(line, "init %d", &code) == 1)
        state->init = code;
    else if (sscanf(line, "driver %79s", text) == 1)
        strcpy(state->driver, text);
    else if (sscanf(line, "lag %lf", &seconds) == 1)
        state->lag = seconds;
    else if (!strncmp(line, "leak", 4))
        state->leak = 1;
    else if (!strncmp(line, "no-lists", 8))
        state->no_lists = 1;
    else if (!strncmp(line, "no-bytes", 8))
        state->no_bytes = 1;
    else if (sscanf(line, "hang %79s %lf", text, &seconds) == 2) {
        strcpy(state->hung, text);
        state->hang_s = seconds;
    } else if (!strncmp(line, "error ", 6) && state->error_count < ERRORS) {
        struct answer *error = &state->errors[state->error_count];
        error->index = -1;
        if (sscanf(line, "error %79s %d %d", error->function, &error->code, &error->index) >= 2)
            state->error_count++;
    } else if (sscanf(line, "mig %d %d %llu %llu", &index, &number, &total, &used) == 4) {
        if (index >= 0 && index < GPUS && number >= 0 && number < MIGS) {
            struct device *mig = &state->devices[index][1 + number];
            mig->present = 1, mig->total = total, mig->used = used;
        }
    } else if (sscanf(line, "gpu %d %llu %llu %d", &index, &total, &used, &code) == 4) {
        if (index >= 0 && index < GPUS) {
            struct device *gpu = &state->devices[index][0];
            gpu->present = 1, gpu->total = total, gpu->used = used, gpu->status = code;
        }
    } else if (sscanf(line, "%79s %d %79[^\n]", word, &index, text) == 3 && index >= 0 && index < GPUS) {
        struct device *gpu = &state->devices[index][0];
        value = strtoll(text, NULL, 0);
        if (!strcmp(word, "name"))
            strcpy(gpu->name, text);
        else if (!strcmp(word, "capability") && sscanf(text, "%d.%d", &major, &minor) == 2)
            gpu->major = major, gpu->minor = minor;
        else if (!strcmp(word, "temperature"))
            gpu->temperature = (int)value;
        else if (!strcmp(word, "utilisation"))
            gpu->utilisation = (int)value;
        else if (!strcmp(word, "reasons"))
            gpu->reasons = value;
    }
}

static void read_state(struct state *state) {
    char line[512];
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "re") : NULL;
    memset(state, 0, sizeof *state);
    strcpy(state->driver, "999.42");
    for (int index = 0; index < GPUS; index++) {
        struct device *gpu = &state->devices[index][0];
        gpu->major = 8, gpu->minor = 6, gpu->temperature = gpu->utilisation = -1, gpu->reasons = -1;
        snprintf(gpu->name, NAME, "Stand-in GPU %d", index);
    }
    while (file && fgets(line, sizeof line, file))
        read_line(state, line);
    if (file)
        fclose(file);
    for (int index = 0; index < GPUS; index++)
        if (initialised && state->devices[index][0].status == GPU_IS_LOST)
            fallen[index] = 1;
}

/* What a call answers before it has looked at anything */

static int is_meant(const char *named, const char *function) {
    size_t length = strlen(named);
    if (strncmp(named, function, length))
        return 0;
    return !function[length] || (function[length] == '_' && function[length + 1] == 'v');
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int begin(const char *function, struct state *state) {
    double until = -1.0;
    const struct timespec step = {0, 10000000};
    for (;;) {
        read_state(state);
        if (!state->hung[0] || !is_meant(state->hung, function))
            break;
        if (until < 0.0)
            until = now() + state->hang_s;
        if (now() >= until)
            break;
        nanosleep(&step, NULL);
    }
    for (int i = 0; i < state->error_count; i++)
        if (state->errors[i].index < 0 && is_meant(state->errors[i].function, function))
            return state->errors[i].code;
    return initialised ? SUCCESS : UNINITIALIZED;
}

/* As `begin`, and the device under the handle. `mig`: 0 for the GPU itself, else one more than the instance's number. */
static int look(const char *function, void *handle, struct state *state, int *index, int *mig) {
    long place = (char *)handle - &handles[0][0];
    int answer = begin(function, state);
    if (answer != SUCCESS)
        return answer;
    if (place < 0 || place >= GPUS * (1 + MIGS))
        return INVALID_ARGUMENT;
    *index = (int)(place / (1 + MIGS));
    *mig = (int)(place % (1 + MIGS));
    if (fallen[*index])
        return GPU_IS_LOST;
    for (int i = 0; i < state->error_count; i++)
        if (state->errors[i].index == *index && is_meant(state->errors[i].function, function))
            return state->errors[i].code;
    return state->devices[*index][*mig].present ? SUCCESS : GPU_NOT_FOUND;
}

static void write_uuid(int index, int mig, char *text, size_t size) {
    if (mig)
        snprintf(text, size, "MIG-00000000-0000-0000-%04d-%012d", index, mig - 1);
    else
        snprintf(text, size, "GPU-00000000-0000-0000-0000-%012d", index);
}

/* Who holds what */

static int has_ended(unsigned pid) {
    char path[64], text[512], *after_name;
    FILE *file;
    size_t length;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    file = fopen(path, "re");
    if (!file)
        return 1;
    length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    after_name = strrchr(text, ')');
    return !after_name || after_name[1] != ' ' || strchr("ZX", after_name[2]) != NULL;
}

static int read_claim(const char *path, u64 *bytes, char word[16]) {
    FILE *file = fopen(path, "re");
    int whole = file && fscanf(file, "%llu %15s", bytes, word) >= 1;
    if (file)
        fclose(file);
    return whole;
}

/* The bytes held on the device, and the processes of one kind that hold them (none where `found` is NULL). */
static u64 claimed(struct state *state, int index, int mig, const char *kind, struct process *found, unsigned *count) {
    char folder[PATH], path[PATH + 300], gone[PATH + 310], uuid[NAME], word[16], *slash;
    u64 sum = 0, bytes;
    unsigned pid;
    struct dirent *entry;
    struct stat about;
    DIR *entries;
    int lock;
    if (!getenv("FAKE_NVML"))
        return 0;
    snprintf(folder, sizeof folder - 10, "%s", getenv("FAKE_NVML"));
    slash = strrchr(folder, '/');
    strcpy(slash ? slash + 1 : folder, "claims");
    write_uuid(index, mig, uuid, sizeof uuid);
    snprintf(path, sizeof path, "%s/.scan", folder);
    lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock >= 0)
        flock(lock, LOCK_EX); /* who renames a claim must not hide it from one who looks */
    entries = opendir(folder);
    while (entries && (entry = readdir(entries))) {
        const char *rest = entry->d_name + strlen(uuid);
        int length = 0, ended;
        if (strncmp(entry->d_name, uuid, strlen(uuid)) || sscanf(rest, ".%u%n", &pid, &length) != 1)
            continue;
        ended = !strcmp(rest + length, ".gone");
        if (rest[length] && !ended)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        strcpy(word, "compute");
        if (!read_claim(path, &bytes, word))
            continue;
        if (!ended && has_ended(pid)) {
            snprintf(gone, sizeof gone, "%s.gone", path);
            utimensat(AT_FDCWD, path, NULL, 0);
            rename(path, gone);
            strcpy(path, gone);
            ended = 1;
        }
        if (!ended) {
            sum += bytes;
            if (found && *count < PROCESSES && !strcmp(word, kind)) {
                struct process *process = &found[(*count)++];
                process->pid = pid;
                process->bytes = state->no_bytes ? ~0ULL : bytes;
                process->gpu_instance = process->compute_instance = mig ? (unsigned)mig - 1 : ~0U;
            }
        } else if (state->leak)
            sum += bytes;
        else if (!stat(path, &about)) {
            if (now() < (double)about.st_mtim.tv_sec + (double)about.st_mtim.tv_nsec * 1e-9 + state->lag)
                sum += bytes;
            else
                unlink(path);
        }
    }
    if (entries)
        closedir(entries);
    if (lock >= 0)
        close(lock);
    return sum;
}
