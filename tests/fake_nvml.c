/* A stand-in libnvidia-ml.so.1 for tests, loaded by the real pynvml. What its "GPUs" are comes from the text file
 * named by FAKE_NVML, read anew at each call: a test changes them by replacing the file. Bytes; <nvmlReturn>: 0 is
 * success. Lines of it:
 *     init <nvmlReturn>                     what nvmlInit answers
 *     driver <version>
 *     gpu <index> <total> <used> <status>   used: by nobody in particular; status: what its memory answers. One with
 *                                           status 15 is lost for all calls, and stays so for this process, whatever
 *                                           the file says later, until nvmlShutdown and nvmlInit
 *     mig <index> <number> <total> <used>   a MIG instance of that GPU, which is in MIG mode by this line
 *     name|capability|temperature|utilisation|reasons <index> <value>
 *                                           capability: "9.0"; reasons: the mask of the clocks' event reasons;
 *                                           where temperature, utilisation or reasons is left out: NOT_SUPPORTED
 *     error <function> <nvmlReturn> [index] what that function answers (for that GPU); with or without its _v2, _v3
 *     hang <function> <seconds>             it answers after so long, or when the line is gone
 *     lag <seconds>                         memory of a process that has ended is free only so long after
 *     leak                                  ... is never free, and nobody owns it
 *     no-lists                              lists of processes are not supported
 *     no-bytes                              ... do not say how much each holds
 * Memory is held by processes: each file `claims/<UUID>.<pid>` beside that text file holds "<bytes> [compute|graphics|
 * mps]" and counts while that process lives (a zombie has ended). Whoever first sees that it has ended renames the file
 * to `<UUID>.<pid>.gone`, and its modification time says when that was. So all processes that look see one card. */
#include "fake_nvml_cards.h"

/* Who holds what */

static int list(const char *function, void *handle, const char *kind, unsigned *count, struct process *out) {
    struct state state;
    struct process found[PROCESSES];
    unsigned room = *count, number = 0;
    int index, mig, answer = look(function, handle, &state, &index, &mig);
    if (answer == SUCCESS && state.no_lists)
        answer = NOT_SUPPORTED;
    if (answer != SUCCESS)
        return answer;
    claimed(&state, index, mig, kind, found, &number);
    *count = number;
    if (number > room)
        return INSUFFICIENT_SIZE;
    if (number)
        memcpy(out, found, number * sizeof *found);
    return SUCCESS;
}

#define LIST(symbol, kind) \
    int symbol(void *handle, unsigned *count, struct process *out) { return list(#symbol, handle, kind, count, out); }
LIST(nvmlDeviceGetComputeRunningProcesses_v2, "compute")
LIST(nvmlDeviceGetComputeRunningProcesses_v3, "compute")
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics")
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics")
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, "mps")
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps")

int nvmlDeviceGetMemoryInfo(void *handle, u64 *memory) { /* total, free, used */
    struct state state;
    struct device *device;
    u64 used;
    int index, mig, answer = look("nvmlDeviceGetMemoryInfo", handle, &state, &index, &mig);
    if (answer != SUCCESS)
        return answer;
    if (state.devices[index][0].status != SUCCESS)
        return state.devices[index][0].status;
    device = &state.devices[index][mig];
    used = device->used + claimed(&state, index, mig, "", NULL, NULL);
    memory[0] = device->total;
    memory[2] = used < device->total ? used : device->total;
    memory[1] = memory[0] - memory[2];
    return SUCCESS;
}

/* The library and its devices */

int nvmlInitWithFlags(unsigned flags) {
    struct state state;
    int answer = begin("nvmlInitWithFlags", &state);
    (void)flags;
    if (answer == SUCCESS || answer == UNINITIALIZED)
        answer = state.init;
    if (answer == SUCCESS && !initialised++)
        memset(fallen, 0, sizeof fallen);
    return answer;
}

int nvmlShutdown(void) {
    struct state state;
    int answer = begin("nvmlShutdown", &state);
    if (initialised)
        initialised--;
    return answer;
}

const char *nvmlErrorString(int answer) {
    static char text[64];
    snprintf(text, sizeof text, "stand-in error %d", answer);
    return text;
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    struct state state;
    int answer = begin("nvmlSystemGetDriverVersion", &state);
    snprintf(text, size, "%s", state.driver);
    return answer;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    struct state state;
    int answer = begin("nvmlDeviceGetCount_v2", &state);
    *count = 0;
    for (int index = 0; index < GPUS; index++)
        *count += (unsigned)state.devices[index][0].present;
    return answer;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    struct state state;
    int found, mig;
    if (index >= GPUS)
        return INVALID_ARGUMENT;
    *handle = &handles[index][0];
    found = look("nvmlDeviceGetHandleByIndex_v2", *handle, &state, &found, &mig);
    return found == GPU_NOT_FOUND ? INVALID_ARGUMENT : found;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    struct state state;
    char text[NAME];
    int found, answer = begin("nvmlDeviceGetHandleByUUID", &state);
    if (answer != SUCCESS)
        return answer;
    for (int index = 0; index < GPUS; index++)
        for (int mig = 0; mig <= MIGS; mig++) {
            write_uuid(index, mig, text, sizeof text);
            if (strcmp(text, uuid) || !state.devices[index][mig].present)
                continue;
            *handle = &handles[index][mig];
            return look("nvmlDeviceGetHandleByUUID", *handle, &state, &found, &mig);
        }
    return NOT_FOUND;
}

static int in_mig_mode(struct state *state, int index) {
    for (int mig = 1; mig <= MIGS; mig++)
        if (state->devices[index][mig].present)
            return 1;
    return 0;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    struct state state;
    int index, mig, answer = look("nvmlDeviceGetMigMode", handle, &state, &index, &mig);
    if (answer != SUCCESS)
        return answer;
    *current = *pending = (unsigned)in_mig_mode(&state, index);
    return *current ? SUCCESS : NOT_SUPPORTED; /* as a GPU that has no such mode */
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) {
    struct state state;
    int index, mig, answer = look("nvmlDeviceGetMaxMigDeviceCount", handle, &state, &index, &mig);
    *count = MIGS - 1; /* as an H100 */
    return answer;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned number, void **found) {
    struct state state;
    int index, mig, answer = look("nvmlDeviceGetMigDeviceHandleByIndex", handle, &state, &index, &mig);
    if (answer != SUCCESS)
        return answer;
    if (number >= MIGS || !state.devices[index][1 + number].present)
        return NOT_FOUND;
    *found = &handles[index][1 + number];
    return SUCCESS;
}

/* What one device is */

int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
    struct state state;
    int index, mig, answer = look("nvmlDeviceGetUUID", handle, &state, &index, &mig);
    if (answer == SUCCESS)
        write_uuid(index, mig, text, size);
    return answer;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned size) {
    struct state state;
    int index, mig, answer = look("nvmlDeviceGetName", handle, &state, &index, &mig);
    if (answer == SUCCESS && mig)
        snprintf(text, size, "%.60s MIG %d", state.devices[index][0].name, mig - 1);
    else if (answer == SUCCESS)
        snprintf(text, size, "%s", state.devices[index][0].name);
    return answer;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    struct state state;
    int index, mig, answer = look("nvmlDeviceGetCudaComputeCapability", handle, &state, &index, &mig);
    if (answer == SUCCESS) {
        *major = state.devices[index][0].major;
        *minor = state.devices[index][0].minor;
    }
    return answer;
}

int nvmlDeviceGetUtilizationRates(void *handle, unsigned *rates) { /* gpu, memory */
    struct state state;
    int index, mig, answer = look("nvmlDeviceGetUtilizationRates", handle, &state, &index, &mig);
    if (answer != SUCCESS)
        return answer;
    if (mig || in_mig_mode(&state, index) || state.devices[index][0].utilisation < 0)
        return NOT_SUPPORTED;
    rates[0] = (unsigned)state.devices[index][0].utilisation;
    rates[1] = 0;
    return SUCCESS;
}

static int temperature(const char *function, void *handle, int *celsius) {
    struct state state;
    int index, mig, answer = look(function, handle, &state, &index, &mig);
    if (answer != SUCCESS)
        return answer;
    *celsius = state.devices[index][0].temperature;
    return mig || *celsius < 0 ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *celsius) {
    (void)sensor;
    return temperature("nvmlDeviceGetTemperature", handle, (int *)celsius);
}

int nvmlDeviceGetTemperatureV(void *handle, int *sensor_s) { /* version, sensor, temperature */
    return temperature("nvmlDeviceGetTemperatureV", handle, &sensor_s[2]);
}

static int reasons(const char *function, void *handle, u64 *mask) {
    struct state state;
    int index, mig, answer = look(function, handle, &state, &index, &mig);
    if (answer != SUCCESS)
        return answer;
    if (mig || state.devices[index][0].reasons < 0)
        return NOT_SUPPORTED;
    *mask = (u64)state.devices[index][0].reasons;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(void *handle, u64 *mask) {
    return reasons("nvmlDeviceGetCurrentClocksEventReasons", handle, mask);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, u64 *mask) {
    return reasons("nvmlDeviceGetCurrentClocksThrottleReasons", handle, mask);
}
