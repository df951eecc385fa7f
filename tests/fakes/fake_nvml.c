/* A fake libnvidia-ml.so.1: the real pynvml loads it where there is no GPU.

   $FAKE_NVML names a text file, read at every call, one word list a line:
     error FUNCTION CODE        the function fails with NVML's error number
     gpu UUID TOTAL USED NAME   a GPU, in the order of the lines; sizes in bytes
     sick CODE                  a GPU that can't be opened: its handle fails with the number
     process GPU PID BYTES      a compute process on GPU number GPU; BYTES -1: not available
     graphics GPU PID BYTES     one that draws; one that does both has two lines

   Build: gcc -shared -fPIC -o libnvidia-ml.so.1 fake_nvml.c. With -DOLD it lacks what came with
   driver 510. Signatures and layouts are those of NVIDIA's nvml.h. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MANY 16
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID = 2, SMALL = 7, NO_DRIVER = 9 };

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
typedef struct { char uuid[96], name[96]; unsigned long long total, used; int code; } gpu_t;

static gpu_t gpus[MANY];
static unsigned gpu_count;
static process_t processes[MANY];
static unsigned process_gpu[MANY], process_count;
static int opened;

/* Read the file; return the error that it asks for in `function`. */
static int look(const char *function)
{
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512], name[96];
    int code, error = SUCCESS;

    if (!file)
        return NO_DRIVER;
    gpu_count = process_count = 0;
    while (fgets(line, sizeof line, file)) {
        gpu_t *gpu = &gpus[gpu_count];
        process_t *process = &processes[process_count];
        long long used;
        if (sscanf(line, "error %95s %d", name, &code) == 2) {
            if (!strcmp(name, function))
                error = code;
        } else if (sscanf(line, "gpu %95s %llu %llu %95[^\n]", gpu->uuid, &gpu->total, &gpu->used,
                          gpu->name) == 4) {
            gpu->code = SUCCESS;
            gpu_count++;
        } else if (sscanf(line, "sick %d", &gpu->code) == 1) {
            gpu_count++;
        } else if (sscanf(line, "process %u %u %lld", &process_gpu[process_count], &process->pid,
                          &used) == 3) {
            process->used = (unsigned long long)used; /* -1 is NVML_VALUE_NOT_AVAILABLE */
            process->gi = process->ci = ~0u;
            process_count++;
        }
    }
    fclose(file);
    if (strcmp(function, "nvmlInit") && !opened)
        return UNINITIALIZED;
    return error;
}

#define BEGIN(function) do { int e = look(function); if (e) return e; } while (0)

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    BEGIN("nvmlInit");
    opened++;
    return SUCCESS;
}

int nvmlShutdown(void)
{
    BEGIN("nvmlShutdown");
    opened--;
    return SUCCESS;
}

const char *nvmlErrorString(int code)
{
    (void)code;
    return "as the fake was told";
}

int nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    BEGIN("nvmlSystemGetDriverVersion");
    snprintf(version, length, "570.00.fake");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    BEGIN("nvmlDeviceGetCount");
    *count = gpu_count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu_t **device)
{
    BEGIN("nvmlDeviceGetHandleByIndex");
    if (index >= gpu_count)
        return INVALID;
    *device = &gpus[index];
    return gpus[index].code;
}

int nvmlDeviceGetUUID(gpu_t *device, char *uuid, unsigned length)
{
    BEGIN("nvmlDeviceGetUUID");
    snprintf(uuid, length, "%s", device->uuid);
    return SUCCESS;
}

int nvmlDeviceGetName(gpu_t *device, char *name, unsigned length)
{
    BEGIN("nvmlDeviceGetName");
    snprintf(name, length, "%s", device->name);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(gpu_t *device, memory_t *memory)
{
    BEGIN("nvmlDeviceGetMemoryInfo");
    memory->total = device->total;
    memory->used = device->used;
    memory->free = device->total - device->used;
    return SUCCESS;
}

#ifndef OLD
int nvmlDeviceGetComputeRunningProcesses_v3(gpu_t *device, unsigned *count, process_t *found)
{
    unsigned room = *count, index = (unsigned)(device - gpus), n = 0;

    BEGIN("nvmlDeviceGetComputeRunningProcesses");
    for (unsigned i = 0; i < process_count; i++)
        if (process_gpu[i] == index) {
            if (n < room && found)
                found[n] = processes[i];
            n++;
        }
    *count = n;
    return n > room || (n && !found) ? SMALL : SUCCESS;
}
#endif
