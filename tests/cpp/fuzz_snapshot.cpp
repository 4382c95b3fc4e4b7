// Fuzz target: damages a snapshot by the input's bytes, with the checksums as they were or made anew. The reader must
// refuse it and leave the table empty, or restore a whole table.
#include <array>
#include <functional>

#include "check.hpp"
#include "table_settings.hpp"
#include "temporary_file.hpp"

namespace {

using namespace monolith;

TableSettings settings_of(Admission admission) {
    TableSettings settings = check::settings_of(4, Optimizer::kAdam, 0.1f, 0.25f, 2, 100);
    settings.admission = admission;
    settings.sketch_bytes = admission == Admission::kSketch ? 16'384 : 0;
    settings.sketch_window_s = 1'000;
    return settings;
}

std::string saved_bytes(Admission admission) {
    EmbeddingTable table(settings_of(admission));
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

std::vector<Chunk> chunks_of(const std::string& bytes) {
    std::vector<Chunk> chunks;
    for (size_t at = 0; at < bytes.size();) {
        Chunk& chunk = chunks.emplace_back();
        std::memcpy(&chunk.head, bytes.data() + at, sizeof chunk.head);
        chunk.payload = bytes.substr(at + sizeof chunk.head, chunk.head.bytes);
        at += sizeof chunk.head + chunk.head.bytes;
    }
    return chunks;
}

std::string joined(std::vector<Chunk> chunks) {
    std::string bytes;
    for (size_t c = 0; c < chunks.size(); ++c) {
        ChunkHead& head = chunks[c].head;
        head.bytes = chunks[c].payload.size();
        if (head.tag == static_cast<uint32_t>(ChunkTag::kEnd)) head.num_entries = c;
        head.crc = checksum(head, chunks[c].payload.data());
        bytes.append(reinterpret_cast<const char*>(&head), sizeof head).append(chunks[c].payload);
    }
    return bytes;
}

// A value that a forger would try, or a neighbour of the present one.
uint64_t forged_value(uint64_t now, uint8_t choice) {
    constexpr std::array<uint64_t, 8> kValues = {
        0, 1, 77, 0xFFFF, 0xFFFFFFFF, uint64_t{1} << 40, ~uint64_t{0} >> 1, ~uint64_t{0}};
    const size_t kind = choice % (kValues.size() + 2);
    return kind < kValues.size() ? kValues[kind] : kind == kValues.size() ? now + 1 : now - 1;
}

// Change fields, sizes and the order of chunks, and give each its right checksum.
std::string forged(const std::string& bytes, const uint8_t* data, size_t size) {
    std::vector<Chunk> chunks = chunks_of(bytes);
    for (size_t i = 0; i + 5 <= size && i < 10; i += 5) {
        const size_t at = data[i + 1] % (chunks.size() - 1);  // not the trailer
        Chunk& chunk = chunks[at];
        std::string& payload = chunk.payload;
        switch (data[i] % 8) {
            case 0:
                chunk.head.num_rows = forged_value(chunk.head.num_rows, data[i + 4]);
                break;
            case 1:
                chunk.head.num_entries = forged_value(chunk.head.num_entries, data[i + 4]);
                break;
            case 2:
                chunk.head.shard_id = data[i + 4];
                break;
            case 3:
                payload.resize((size_t{data[i + 2]} << 8 | data[i + 3]) % (payload.size() + 9));
                break;
            case 4:
                chunks.insert(chunks.begin() + data[i + 2] % static_cast<long>(chunks.size()), Chunk(chunk));
                break;
            default: {  // a field of 1, 4 or 8 bytes
                const size_t width = std::array<size_t, 3>{1, 4, 8}[data[i] % 8 - 5];
                if (payload.size() < width) break;
                const size_t place = (size_t{data[i + 2]} << 8 | data[i + 3]) % (payload.size() - width + 1);
                uint64_t value = 0;
                std::memcpy(&value, payload.data() + place, width);
                value = forged_value(value, data[i + 4]);
                std::memcpy(payload.data() + place, &value, width);
            }
        }
    }
    return joined(std::move(chunks));
}

// The table goes on: look-ups, steps, evictions, drains and a snapshot of its own.
void use(EmbeddingTable& table) {
    check::whole(table);
    std::vector<int64_t> fids(60);
    for (size_t i = 0; i < fids.size(); ++i) fids[i] = static_cast<int64_t>(i) - 30;
    std::vector<uint32_t> rows(fids.size());
    table.find_or_insert(fids.data(), fids.size(), 170, rows.data());
    check::update(table, rows, [](uint32_t i, float* gradient) { gradient[0] = static_cast<float>(i); });
    table.evict(300, 0);
    table.drain("replicas");
    check::whole(table);
    const check::TemporaryFile file;
    check::save(table, file.path());
    EmbeddingTable twin(read_meta(SnapshotFileReader(file.path())).settings);
    restore(twin, file.path(), {});
    check::whole(twin);
    CHECK(twin.num_rows() == table.num_rows());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::array<std::string, 2> whole = {saved_bytes(Admission::kCount), saved_bytes(Admission::kSketch)};
    static const check::TemporaryFile file;
    const uint8_t way = size > 0 ? data[0] : 0;
    const bool has_sketch = way & 1, is_forged = way & 2;
    const std::string& before = whole[has_sketch];
    if (is_forged) {
        file.write(forged(before, data + 1, size - 1));
        EmbeddingTable table(settings_of(has_sketch ? Admission::kSketch : Admission::kCount));
        try {
            EmbeddingTable of_file(read_meta(SnapshotFileReader(file.path())).settings);
            restore(of_file, file.path(), {});
            use(of_file);
            restore(table, file.path(), {1, 2});
            use(table);
        } catch (const SnapshotError&) {
            CHECK(table.num_rows() == 0 && table.drain("replicas").evicted.empty() && !table.stats().at("candidates"));
        }
        return 0;
    }
    const std::string bytes = way & 4 && size > 0 ? std::string(reinterpret_cast<const char*>(data), size)
                                                  : damaged(before, data + 1, size > 0 ? size - 1 : 0);
    file.write(bytes);
    EmbeddingTable table(settings_of(has_sketch ? Admission::kSketch : Admission::kCount));
    if (bytes != before) {
        CHECK_THROWS(restore(table, file.path(), {}), SnapshotError);
        CHECK(table.num_rows() == 0);
    } else {
        restore(table, file.path(), {});
        CHECK(table.num_rows() > 0);
    }
    return 0;
}
