/* A CUDA driver without a GPU, and NVML that counts two: notes what CUDA's runtime finds in the environment when it
   starts, then refuses, so that torch goes on on the CPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cuInit(unsigned flags) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    FILE *notes = fopen(getenv("DRIVER_NOTES"), "a");
    fprintf(notes, "%s\n", visible ? visible : "all");
    fclose(notes);
    return 100; /* CUDA_ERROR_NO_DEVICE */
}

int cuDriverGetVersion(int *version) {
    *version = 13000;
    return 0;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, void *status) {
    *function = !strcmp(name, "cuInit") ? (void *)cuInit
              : !strcmp(name, "cuDriverGetVersion") ? (void *)cuDriverGetVersion
              : !strcmp(name, "cuGetProcAddress") ? (void *)cuGetProcAddress_v2
              : NULL;
    return *function ? 0 : 500; /* CUDA_ERROR_NOT_FOUND */
}

int nvmlInit(void) {
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 2;
    return 0;
}
