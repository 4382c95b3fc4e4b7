// Fuzz target: damages a snapshot by the input's bytes. The reader must refuse it, or read what was saved.
#include "check.hpp"
#include "table_settings.hpp"
#include "temporary_file.hpp"

namespace {

using namespace monolith;

const TableSettings kSettings = check::settings_of(4, Optimizer::kAdam, 0.1f, 0.25f, 2, 100);

std::string saved_bytes() {
    EmbeddingTable table(kSettings);
    table.drain("replicas");
    for (int64_t pass = 0; pass < 3; ++pass)
        for (int64_t fid = -20; fid < 20; fid += pass + 1) {
            uint32_t row;
            table.find_or_insert(&fid, 1, pass * 60, &row);
        }
    table.evict(161, 0);
    const check::TemporaryFile file;
    check::save(table, file.path());
    return file.read();
}

// Overwrite, truncate, append or move bytes, as the input says.
std::string damaged(std::string bytes, const uint8_t* data, size_t size) {
    for (size_t i = 0; i + 4 <= size && i < 32; i += 4) {
        const size_t place = (size_t{data[i + 1]} << 8 | data[i + 2]) % (bytes.size() + 1);
        switch (data[i] % 5) {
            case 0:
            case 1:
                if (place < bytes.size()) bytes[place] = static_cast<char>(data[i + 3]);
                break;
            case 2:
                if (data[i + 3] < 64) bytes.resize(place);
                break;
            case 3:
                bytes.append(data[i + 3] % 16, static_cast<char>(data[i + 2]));
                break;
            default:
                bytes.insert(place, bytes.substr(0, data[i + 3]));
                bytes.erase(0, data[i + 3]);
        }
    }
    return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::string whole = saved_bytes();
    static const check::TemporaryFile file;
    const bool from_whole = size > 0 && data[0] % 8 != 0;
    const std::string bytes =
        from_whole ? damaged(whole, data + 1, size - 1) : std::string(reinterpret_cast<const char*>(data), size);
    file.write(bytes);
    EmbeddingTable table(kSettings);
    if (bytes != whole) {
        CHECK_THROWS(restore(table, file.path(), {}), SnapshotError);
        CHECK(table.num_rows() == 0);
    } else {
        restore(table, file.path(), {});
        CHECK(table.num_rows() > 0);
    }
    return 0;
}
