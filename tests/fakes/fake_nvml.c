/* A fake libnvidia-ml.so.1: the real pynvml loads it where there is no GPU.

   $FAKE_NVML names a text file, looked at in every call, one word list a line:
     error FUNCTION CODE        the function fails with NVML's error number
     slow FUNCTION MS           it takes so long, for every GPU
     gpu UUID TOTAL USED NAME   a GPU, in the order of the lines; sizes in bytes
     sick CODE                  a GPU that can't be opened: its handle fails with the number
     fact GPU WORD NUMBER       what GPU number GPU tells of itself; a WORD that no line has is
                                "not supported". mig (1: on), watts, limit (mW), sm, sm-most, memory,
                                memory-most (MHz), reasons (bits), ecc, uncorrected, pending, failed
                                (rows), retiring (pages), recovery, bus (PCI)
     slice GPU NUMBER INSTANCE UUID TOTAL USED NAME   a MIG slice of it, in a GPU instance
     process GPU PID BYTES      a compute process on GPU number GPU; BYTES -1: not available
     graphics GPU PID BYTES     one that draws; one that does both has two lines
     on GPU.NUMBER PID BYTES    a compute process on a MIG slice
   What a process holds stays as long as its line does, also after its death.

   Build: gcc -shared -fPIC -pthread -o libnvidia-ml.so.1 fake_nvml.c. With -DOLD it lacks what came
   with driver 510. Signatures and layouts are those of NVIDIA's nvml.h. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MANY 512
enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID = 2,
    UNSUPPORTED = 3,
    NOT_FOUND = 6,
    SMALL = 7,
    NO_DRIVER = 9
};
enum { WORD = 32, FACTS = 24, SETTLED_NS = 50000000 };

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
typedef struct { char word[WORD]; long long number; } fact_t;
typedef struct {
    char uuid[96], name[96];
    unsigned long long total, used;
    int code, gpu, slice; /* slice: -1 for a whole GPU */
    unsigned instance;
    fact_t facts[FACTS];
    unsigned fact_count;
} device_t;
typedef struct { int device_gpu, device_slice, graphics; process_t process; } line_t;
typedef struct { char function[64]; int number; } rule_t;
typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} pci_t;
typedef struct {
    unsigned fieldId, scopeId;
    long long timestamp, latencyUsec;
    int valueType, nvmlReturn;
    union { double d; unsigned ui; unsigned long long ull; } value;
} field_t;

/* A handle is the address of a device here: it stays where it is, whatever the file says later. */
static device_t devices[MANY];
static unsigned device_count, gpu_count;
static line_t lines[MANY];
static unsigned line_count;
static rule_t errors[MANY], delays[MANY];
static unsigned error_count, delay_count;
static int opened;
static struct stat known;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static device_t *whole(int gpu)
{
    for (unsigned i = 0; i < device_count; i++)
        if (devices[i].gpu == gpu && devices[i].slice < 0)
            return &devices[i];
    return NULL;
}

static void parse(FILE *file)
{
    char line[512], word[WORD], name[64];

    device_count = gpu_count = line_count = error_count = delay_count = 0;
    while (fgets(line, sizeof line, file)) {
        device_t *device = &devices[device_count];
        line_t *held = &lines[line_count];
        rule_t *error = &errors[error_count], *delay = &delays[delay_count];
        int gpu, number = -1;
        long long value;

        if (sscanf(line, "error %63s %d", error->function, &error->number) == 2)
            error_count++;
        else if (sscanf(line, "slow %63s %d", delay->function, &delay->number) == 2)
            delay_count++;
        else if (sscanf(line, "gpu %95s %llu %llu %95[^\n]", device->uuid, &device->total,
                        &device->used, device->name) == 4
                 || sscanf(line, "sick %d", &device->code) == 1) {
            if (line[0] == 'g')
                device->code = SUCCESS;
            device->gpu = (int)gpu_count++;
            device->slice = -1;
            device->fact_count = 0;
            device_count++;
        } else if (sscanf(line, "slice %d %d %u %95s %llu %llu %95[^\n]", &device->gpu,
                          &device->slice, &device->instance, device->uuid, &device->total,
                          &device->used, device->name) == 7) {
            device->code = SUCCESS;
            device->fact_count = 0;
            device_count++;
        } else if (sscanf(line, "fact %d %31s %lld", &gpu, word, &value) == 3 && whole(gpu)) {
            fact_t *fact = &whole(gpu)->facts[whole(gpu)->fact_count++ % FACTS];
            snprintf(fact->word, WORD, "%s", word);
            fact->number = value;
        } else if (sscanf(line, "%63s %d %u %lld", name, &gpu, &held->process.pid, &value) == 4
                   || sscanf(line, "%63s %d.%d %u %lld", name, &gpu, &number, &held->process.pid,
                             &value) == 5) {
            held->device_gpu = gpu;
            held->device_slice = number;
            held->graphics = !strcmp(name, "graphics");
            held->process.used = (unsigned long long)value; /* -1: NVML_VALUE_NOT_AVAILABLE */
            held->process.gi = held->process.ci = ~0u;
            line_count++;
        }
        if (device_count == MANY || line_count == MANY || error_count == MANY)
            abort();
    }
}

/* Read the file anew where it may have changed: its time is as coarse as the kernel's tick. */
static int look(const char *function, int *wait_ms)
{
    const char *path = getenv("FAKE_NVML");
    struct stat now;
    struct timespec clock;

    if (!path || stat(path, &now))
        return NO_DRIVER;
    clock_gettime(CLOCK_REALTIME, &clock);
    long long age = (clock.tv_sec - now.st_mtim.tv_sec) * 1000000000LL
                    + (clock.tv_nsec - now.st_mtim.tv_nsec);
    if (age < SETTLED_NS || now.st_mtim.tv_sec != known.st_mtim.tv_sec
        || now.st_mtim.tv_nsec != known.st_mtim.tv_nsec || now.st_size != known.st_size
        || now.st_ino != known.st_ino) {
        FILE *file = fopen(path, "r");
        if (!file)
            return NO_DRIVER;
        parse(file);
        fclose(file);
        known = now;
        if (age < SETTLED_NS)
            known.st_ino = 0;
    }
    for (unsigned i = 0; i < delay_count; i++)
        if (!strcmp(delays[i].function, function))
            *wait_ms = delays[i].number;
    if (strcmp(function, "nvmlInit") && !opened)
        return UNINITIALIZED;
    for (unsigned i = 0; i < error_count; i++)
        if (!strcmp(errors[i].function, function))
            return errors[i].number;
    return SUCCESS;
}

static int enter(const char *function)
{
    int wait_ms = 0, error;

    pthread_mutex_lock(&lock);
    error = look(function, &wait_ms);
    if (wait_ms) { /* as the driver: it keeps nobody else waiting */
        pthread_mutex_unlock(&lock);
        usleep((unsigned)wait_ms * 1000);
        pthread_mutex_lock(&lock);
    }
    if (error)
        pthread_mutex_unlock(&lock);
    return error;
}

#define BEGIN(function) do { int e = enter(function); if (e) return e; } while (0)
#define END(result) do { int r = (result); pthread_mutex_unlock(&lock); return r; } while (0)

static int fact(device_t *device, const char *word, long long *number)
{
    for (unsigned i = 0; i < device->fact_count; i++)
        if (!strcmp(device->facts[i].word, word)) {
            *number = device->facts[i].number;
            return SUCCESS;
        }
    return UNSUPPORTED;
}

static int tell(device_t *device, const char *word, unsigned *answer)
{
    long long number = 0;
    int result = fact(device, word, &number);

    *answer = (unsigned)number;
    return result;
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    BEGIN("nvmlInit");
    opened++;
    END(SUCCESS);
}

int nvmlShutdown(void)
{
    BEGIN("nvmlShutdown");
    opened--;
    END(SUCCESS);
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
    END(SUCCESS);
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    BEGIN("nvmlDeviceGetCount");
    *count = gpu_count;
    END(SUCCESS);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t **device)
{
    BEGIN("nvmlDeviceGetHandleByIndex");
    if (!whole((int)index))
        END(INVALID);
    *device = whole((int)index);
    END((*device)->code);
}

int nvmlDeviceGetUUID(device_t *device, char *uuid, unsigned length)
{
    BEGIN("nvmlDeviceGetUUID");
    snprintf(uuid, length, "%s", device->uuid);
    END(SUCCESS);
}

int nvmlDeviceGetName(device_t *device, char *name, unsigned length)
{
    BEGIN("nvmlDeviceGetName");
    snprintf(name, length, "%s", device->name);
    END(SUCCESS);
}

int nvmlDeviceGetMemoryInfo(device_t *device, memory_t *memory)
{
    BEGIN("nvmlDeviceGetMemoryInfo");
    memory->total = device->total;
    memory->used = device->used;
    memory->free = device->total - device->used;
    END(SUCCESS);
}

#ifndef OLD
static int processes(device_t *device, int graphics, unsigned *count, process_t *found)
{
    unsigned room = *count, n = 0;

    for (unsigned i = 0; i < line_count; i++)
        if (lines[i].device_gpu == device->gpu && lines[i].device_slice == device->slice
            && lines[i].graphics == graphics) {
            if (n < room && found)
                found[n] = lines[i].process;
            n++;
        }
    *count = n;
    return n > room || (n && !found) ? SMALL : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device_t *device, unsigned *count, process_t *found)
{
    BEGIN("nvmlDeviceGetComputeRunningProcesses");
    END(processes(device, 0, count, found));
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t *device, unsigned *count, process_t *found)
{
    BEGIN("nvmlDeviceGetGraphicsRunningProcesses");
    END(processes(device, 1, count, found));
}

int nvmlDeviceGetMigMode(device_t *device, unsigned *now, unsigned *later)
{
    BEGIN("nvmlDeviceGetMigMode");
    int result = tell(device, "mig", now);
    *later = *now;
    END(result);
}

int nvmlDeviceGetMaxMigDeviceCount(device_t *device, unsigned *count)
{
    (void)device;
    BEGIN("nvmlDeviceGetMaxMigDeviceCount");
    *count = 7;
    END(SUCCESS);
}

int nvmlDeviceGetMigDeviceHandleByIndex(device_t *device, unsigned index, device_t **slice)
{
    BEGIN("nvmlDeviceGetMigDeviceHandleByIndex");
    for (unsigned i = 0; i < device_count; i++)
        if (devices[i].gpu == device->gpu && devices[i].slice == (int)index) {
            *slice = &devices[i];
            END(SUCCESS);
        }
    END(NOT_FOUND);
}

int nvmlDeviceGetGpuInstanceId(device_t *slice, unsigned *id)
{
    BEGIN("nvmlDeviceGetGpuInstanceId");
    *id = slice->instance;
    END(SUCCESS);
}

int nvmlDeviceGetPowerUsage(device_t *device, unsigned *milliwatts)
{
    BEGIN("nvmlDeviceGetPowerUsage");
    END(tell(device, "watts", milliwatts));
}

int nvmlDeviceGetEnforcedPowerLimit(device_t *device, unsigned *milliwatts)
{
    BEGIN("nvmlDeviceGetEnforcedPowerLimit");
    END(tell(device, "limit", milliwatts));
}

int nvmlDeviceGetClockInfo(device_t *device, int kind, unsigned *mhz)
{
    BEGIN("nvmlDeviceGetClockInfo");
    END(tell(device, kind == 1 ? "sm" : "memory", mhz));
}

int nvmlDeviceGetMaxClockInfo(device_t *device, int kind, unsigned *mhz)
{
    BEGIN("nvmlDeviceGetMaxClockInfo");
    END(tell(device, kind == 1 ? "sm-most" : "memory-most", mhz));
}

int nvmlDeviceGetCurrentClocksEventReasons(device_t *device, unsigned long long *reasons)
{
    unsigned bits;

    BEGIN("nvmlDeviceGetCurrentClocksEventReasons");
    int result = tell(device, "reasons", &bits);
    *reasons = bits;
    END(result);
}

int nvmlDeviceGetEccMode(device_t *device, unsigned *now, unsigned *later)
{
    BEGIN("nvmlDeviceGetEccMode");
    int result = tell(device, "ecc", now);
    *later = *now;
    END(result);
}

int nvmlDeviceGetTotalEccErrors(device_t *device, int kind, int since, unsigned long long *errors)
{
    unsigned number;

    BEGIN("nvmlDeviceGetTotalEccErrors");
    int result = kind == 1 && since == 0 ? tell(device, "uncorrected", &number) : INVALID;
    *errors = number;
    END(result);
}

int nvmlDeviceGetRemappedRows(device_t *device, unsigned *mended, unsigned *bad, unsigned *pending,
                              unsigned *failed)
{
    BEGIN("nvmlDeviceGetRemappedRows");
    *mended = *bad = 0;
    int result = tell(device, "pending", pending);
    tell(device, "failed", failed);
    END(result);
}

int nvmlDeviceGetRetiredPagesPendingStatus(device_t *device, unsigned *pending)
{
    BEGIN("nvmlDeviceGetRetiredPagesPendingStatus");
    END(tell(device, "retiring", pending));
}

int nvmlDeviceGetPciInfo_v3(device_t *device, pci_t *pci)
{
    long long bus;

    BEGIN("nvmlDeviceGetPciInfo");
    int result = fact(device, "bus", &bus);
    memset(pci, 0, sizeof *pci);
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", (unsigned)bus & 0xff);
    END(result);
}

int nvmlDeviceGetFieldValues(device_t *device, int count, field_t *fields)
{
    BEGIN("nvmlDeviceGetFieldValues");
    for (int i = 0; i < count; i++)
        fields[i].nvmlReturn =
            fields[i].fieldId == 230 ? tell(device, "recovery", &fields[i].value.ui) : UNSUPPORTED;
    END(SUCCESS);
}
#endif
