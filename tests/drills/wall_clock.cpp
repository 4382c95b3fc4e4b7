// Shift of a process's wall clock, for LD_PRELOAD: WALL_CLOCK_SHIFT_FILE names a file of 8 bytes, the shift in milliseconds.
// The file is read at each look at the clock, so a drill sets the clock of a running process. Monotonic clocks stay as they are.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <ctime>

namespace {

constexpr std::int64_t kNsPerS = 1'000'000'000;
constexpr std::int64_t kNsPerMs = 1'000'000;

const volatile std::int64_t *OpenShift() {
  const char *path = std::getenv("WALL_CLOCK_SHIFT_FILE");
  const int file = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    return nullptr;
  }
  void *shift = mmap(nullptr, sizeof(std::int64_t), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  return shift == MAP_FAILED ? nullptr : static_cast<const std::int64_t *>(shift);
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec *time) noexcept {
  static const volatile std::int64_t *const shift = OpenShift();
  const int status = static_cast<int>(syscall(SYS_clock_gettime, clock, time));
  if (status == 0 && clock == CLOCK_REALTIME && shift != nullptr) {
    const std::int64_t shifted = time->tv_sec * kNsPerS + time->tv_nsec + *shift * kNsPerMs;
    time->tv_sec = shifted / kNsPerS;
    time->tv_nsec = shifted % kNsPerS;
  }
  return status;
}
