/* A stand-in libnvidia-ml.so.1 for tests, loaded by the real pynvml. The figures come from the text file named by
 * FAKE_NVML, read anew at each call: a test changes the "GPU" by rewriting the file. Lines of it:
 *     init <nvmlReturn>                     what nvmlInit answers, 0 without
 *     gpu <index> <total> <used> <status>   bytes; status is what its calls answer (nvmlReturn), 0 is success */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, SIZE = 16 };

typedef unsigned long long u64;
struct gpu { int present, status; u64 total, used; };

static int initialised;
static int names[SIZE]; /* a handle is the address of one of these */

static int read_state(struct gpu gpus[SIZE]) {
    int init = SUCCESS, index, status, value;
    u64 total, used;
    char line[256];
    FILE *file = fopen(getenv("FAKE_NVML"), "r");
    memset(gpus, 0, SIZE * sizeof *gpus);
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "init %d", &value) == 1)
            init = value;
        if (sscanf(line, "gpu %d %llu %llu %d", &index, &total, &used, &status) == 4 && index >= 0 && index < SIZE)
            gpus[index] = (struct gpu){1, status, total, used};
    }
    if (file)
        fclose(file);
    return init;
}

static int look(void *handle, int *index, struct gpu *found) {
    struct gpu gpus[SIZE];
    if (!initialised)
        return UNINITIALIZED;
    *index = (int)((int *)handle - names);
    if (*index < 0 || *index >= SIZE)
        return INVALID_ARGUMENT;
    read_state(gpus);
    *found = gpus[*index];
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    struct gpu gpus[SIZE];
    int answer = read_state(gpus);
    (void)flags;
    if (answer == SUCCESS)
        initialised++;
    return answer;
}

int nvmlShutdown(void) {
    if (!initialised)
        return UNINITIALIZED;
    initialised--;
    return SUCCESS;
}

const char *nvmlErrorString(int answer) {
    static char text[64];
    snprintf(text, sizeof text, "stand-in error %d", answer);
    return text;
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    snprintf(text, size, "999.42");
    return initialised ? SUCCESS : UNINITIALIZED;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    struct gpu gpus[SIZE];
    read_state(gpus);
    *count = 0;
    for (int index = 0; index < SIZE; index++)
        *count += (unsigned)gpus[index].present;
    return initialised ? SUCCESS : UNINITIALIZED;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    struct gpu gpus[SIZE];
    read_state(gpus);
    if (index >= SIZE || !gpus[index].present)
        return INVALID_ARGUMENT;
    *handle = &names[index];
    return gpus[index].status == 15 ? 15 : SUCCESS; /* a GPU that is lost gives no handle either */
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
    struct gpu gpu;
    int index, answer = look(handle, &index, &gpu);
    if (answer == SUCCESS)
        snprintf(text, size, "GPU-00000000-0000-0000-0000-%012d", index);
    return answer;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned size) {
    struct gpu gpu;
    int index, answer = look(handle, &index, &gpu);
    if (answer == SUCCESS)
        snprintf(text, size, "Stand-in GPU %d", index);
    return answer;
}

int nvmlDeviceGetMemoryInfo(void *handle, u64 *memory) { /* total, free, used */
    struct gpu gpu;
    int index, answer = look(handle, &index, &gpu);
    if (answer != SUCCESS || gpu.status != SUCCESS)
        return answer ? answer : gpu.status;
    memory[0] = gpu.total;
    memory[1] = gpu.total - gpu.used;
    memory[2] = gpu.used;
    return SUCCESS;
}
