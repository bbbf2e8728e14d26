/* The least of nvidia-smi: codecarbon asks whether `nvidia-smi --help` runs, people type `nvidia-smi` and `-L`. */
#include <stdio.h>
#include <string.h>

typedef struct slot *nvmlDevice_t;
int nvmlInit_v2(void);
const char *nvmlErrorString(int result);
int nvmlSystemGetDriverVersion(char *buffer, unsigned length);
int nvmlSystemGetCudaDriverVersion(int *version);
int nvmlDeviceGetCount_v2(unsigned *count);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *handle);
int nvmlDeviceGetName(nvmlDevice_t device, char *buffer, unsigned length);
int nvmlDeviceGetUUID(nvmlDevice_t device, char *buffer, unsigned length);
int nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *celsius);
int nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts);
int nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned *milliwatts);

static void print_row(unsigned index, nvmlDevice_t gpu) {
    char name[96] = "";
    unsigned celsius = 0, milliwatts = 0, limit = 0;
    nvmlDeviceGetName(gpu, name, sizeof name);
    nvmlDeviceGetTemperature(gpu, 0, &celsius);
    int result = nvmlDeviceGetPowerUsage(gpu, &milliwatts);
    nvmlDeviceGetEnforcedPowerLimit(gpu, &limit);
    printf("| %3u  %-34s %4uC ", index, name, celsius);
    if (result == 0)
        printf("%5uW / %4uW |\n", milliwatts / 1000, limit / 1000);
    else
        printf("  N/A  / %4uW |\n", limit / 1000);
}

int main(int count, char **options) {
    if (count > 1 && (strcmp(options[1], "--help") == 0 || strcmp(options[1], "-h") == 0)) {
        puts("NVIDIA System Management Interface\n\nnvidia-smi [-L]\n\n    -L   list the GPUs");
        return 0;
    }
    int list = count > 1 && strcmp(options[1], "-L") == 0;
    if (count > 1 && !list) {
        printf("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n");
        return 2;
    }
    int result = nvmlInit_v2();
    if (result != 0) {
        printf("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver: %s\n", nvmlErrorString(result));
        return result;
    }
    char driver[80] = "";
    int cuda = 0;
    unsigned gpus = 0;
    nvmlSystemGetDriverVersion(driver, sizeof driver);
    nvmlSystemGetCudaDriverVersion(&cuda);
    nvmlDeviceGetCount_v2(&gpus);
    if (!list) printf("| Driver Version: %-20s CUDA Version: %d.%d%18s |\n", driver, cuda / 1000, cuda % 1000 / 10, "");
    for (unsigned index = 0; index < gpus; index++) {
        nvmlDevice_t gpu;
        char name[96] = "", uuid[96] = "";
        result = nvmlDeviceGetHandleByIndex_v2(index, &gpu);
        if (result != 0) {
            printf("Unable to determine the device handle for GPU%u: %s\n", index, nvmlErrorString(result));
        } else if (list) {
            nvmlDeviceGetName(gpu, name, sizeof name);
            nvmlDeviceGetUUID(gpu, uuid, sizeof uuid);
            printf("GPU %u: %s (UUID: %s)\n", index, name, uuid);
        } else {
            print_row(index, gpu);
        }
    }
    return 0;
}
