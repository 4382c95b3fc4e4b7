// A temporary file of one test, deleted at the end.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

namespace monolith::check {

class TemporaryFile {
  public:
    TemporaryFile() {
        const char* directory = std::getenv("TMPDIR");
        path_ = std::string(directory ? directory : "/tmp") + "/monolith.XXXXXX";
        ::close(::mkstemp(path_.data()));
    }
    ~TemporaryFile() { ::unlink(path_.c_str()); }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;

    const std::string& path() const { return path_; }
    std::string read() const {
        std::ifstream file(path_, std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }
    void write(const std::string& bytes) const {
        std::ofstream(path_, std::ios::binary | std::ios::trunc)
            .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    }

  private:
    std::string path_;
};

}  // namespace monolith::check
