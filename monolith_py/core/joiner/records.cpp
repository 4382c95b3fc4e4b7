// The flatbuffer of a record batch's metadata is laid out by hand: its tables have fixed places, only the lists of
// nodes and buffers grow (Message.fbs and Schema.fbs of Apache Arrow, metadata version 5).
#include "joiner/records.hpp"

#include <stdexcept>

namespace monolith::joiner {

namespace {

constexpr size_t kAlignment = 8;
constexpr size_t padded(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

// Offsets within the flatbuffer.
constexpr size_t kMessageVtable = 4, kMessage = 16, kBatchVtable = 36, kBatch = 48, kNodes = 68;

// One Arrow record batch that is written column by column; without a place to write to, only its size is counted.
class RecordBatch {
  public:
    RecordBatch(size_t num_rows, size_t num_nodes, size_t num_buffers, char* out)
        : num_rows_(num_rows), num_nodes_(num_nodes), num_buffers_(num_buffers), out_(out), size_(8 + metadata_size()) {
        if (out_ == nullptr) return;
        std::memset(out_, 0, size_);
        put<uint32_t>(0, 0xFFFFFFFF);
        put<uint32_t>(4, static_cast<uint32_t>(metadata_size()));
        write_tables();
    }

    template <typename T>
    void add_values(const std::vector<T>& values) {
        add_node(values.size());
        add_buffer(values.size() * sizeof(T),
                   [&](char* place) { copy(place, values.data(), values.size() * sizeof(T)); });
    }
    void add_texts(const std::vector<int32_t>& ends, const std::string& texts) {
        add_node(ends.size());
        add_buffer((ends.size() + 1) * sizeof(int32_t), [&](char* place) {
            std::memset(place, 0, sizeof(int32_t));
            copy(place + sizeof(int32_t), ends.data(), ends.size() * sizeof(int32_t));
        });
        add_buffer(texts.size(), [&](char* place) { copy(place, texts.data(), texts.size()); });
    }
    // The columns with one fid in each row share a buffer of offsets.
    void add_bags(const SparseColumn& column) {
        const size_t num_bytes = (num_rows_ + 1) * sizeof(int32_t);
        add_node(num_rows_);
        if (column.is_single() && single_offsets_ > 0) {
            note_buffer(single_offsets_, num_bytes);
        } else {
            if (column.is_single()) single_offsets_ = size_;
            add_buffer(num_bytes, [&](char* place) { column.write_offsets(place); });
        }
        add_values(column.fids());
    }
    void add_dense(const DenseColumn& column) {
        add_node(num_rows_);
        add_values(column.values());
    }
    // Write the end of the stream and return the number of bytes.
    size_t finish() {
        if (node_ != num_nodes_ || buffer_ != num_buffers_) throw std::logic_error("a record batch must be whole");
        if (out_ != nullptr) {
            put<int64_t>(8 + kMessage + 8, static_cast<int64_t>(size_ - 8 - metadata_size()));
            put<uint32_t>(size_, 0xFFFFFFFF);
            put<uint32_t>(size_ + 4, 0);
        }
        return size_ + 8;
    }

  private:
    // Place of the list of buffers: its items, after a count of 4 bytes, are aligned.
    size_t buffers() const { return kNodes + 4 + 16 * num_nodes_ + 4; }
    size_t metadata_size() const { return buffers() + 4 + 16 * num_buffers_; }

    static void copy(char* place, const void* data, size_t size) {
        if (size > 0) std::memcpy(place, data, size);
    }
    template <typename T>
    void put(size_t at, T value) {
        std::memcpy(out_ + at, &value, sizeof value);
    }
    void write_tables() {
        const size_t base = 8;
        put<uint32_t>(base, kMessage);
        // Size of the table of places, size of the table, then the place of each field.
        const uint16_t message[] = {12, 20, 16, 18, 4, 8};  // version, kind of header, header, length of the body
        std::memcpy(out_ + base + kMessageVtable, message, sizeof message);
        put<int32_t>(base + kMessage, kMessage - kMessageVtable);
        put<uint32_t>(base + kMessage + 4, kBatch - (kMessage + 4));
        put<int16_t>(base + kMessage + 16, 4);        // version 5
        put<uint8_t>(base + kMessage + 18, 3);        // a record batch
        const uint16_t batch[] = {10, 20, 8, 4, 16};  // number of rows, nodes, buffers
        std::memcpy(out_ + base + kBatchVtable, batch, sizeof batch);
        put<int32_t>(base + kBatch, kBatch - kBatchVtable);
        put<uint32_t>(base + kBatch + 4, kNodes - (kBatch + 4));
        put<int64_t>(base + kBatch + 8, static_cast<int64_t>(num_rows_));
        put<uint32_t>(base + kBatch + 16, static_cast<uint32_t>(buffers() - (kBatch + 16)));
        put<uint32_t>(base + kNodes, static_cast<uint32_t>(num_nodes_));
        put<uint32_t>(base + buffers(), static_cast<uint32_t>(num_buffers_));
    }
    // Add a node of `length` values without a null, and the empty buffer of its nulls.
    void add_node(size_t length) {
        if (out_ != nullptr) put<int64_t>(8 + kNodes + 4 + 16 * node_, static_cast<int64_t>(length));
        ++node_;
        add_buffer(0, [](char*) {});
    }
    template <typename Write>
    void add_buffer(size_t size, Write write) {
        note_buffer(size_, size);
        if (out_ != nullptr) {
            write(out_ + size_);
            std::memset(out_ + size_ + size, 0, padded(size) - size);
        }
        size_ += padded(size);
    }
    void note_buffer(size_t place, size_t size) {
        if (out_ != nullptr) {
            const size_t at = 8 + buffers() + 4 + 16 * buffer_;
            put<int64_t>(at, static_cast<int64_t>(place - 8 - metadata_size()));
            put<int64_t>(at + 8, static_cast<int64_t>(size));
        }
        ++buffer_;
    }

    size_t num_rows_, num_nodes_, num_buffers_;
    size_t node_ = 0, buffer_ = 0;
    size_t single_offsets_ = 0;  // place of the offsets of columns with one fid in each row; 0: none yet
    char* out_;
    size_t size_;
};

}  // namespace

ExampleColumns::ExampleColumns(const Emission* const* emissions, size_t num, const std::vector<std::string>& tasks,
                               const Widths& widths, const LabelLayout& layout)
    : num_(num), labels_(tasks.size()), features_(widths, nullptr, num), served_(tasks, layout) {
    items_.reserve(num);
    times_ms_.reserve(num);
    id_ends_.reserve(num);
    for_each_impression(emissions, num, [&](const Impression& impression, const Rows& rows) {
        features_.add(impression, rows);
        served_.add(impression, rows);
        for (uint32_t row : rows.rows) {
            ids_.append(impression.request_id);
            id_ends_.push_back(static_cast<int32_t>(ids_.size()));
            items_.push_back(impression.item_id(row));
            times_ms_.push_back(impression.time_ms);
        }
    });
    features_.finish();
    kinds_.reserve(num);
    rates_.reserve(num);
    for (std::vector<float>& labels : labels_) labels.reserve(num);
    for (size_t i = 0; i < num; ++i) {
        const Emission& emission = *emissions[i];
        if (emission.kind == Emission::kSampledAway) throw std::logic_error("a negative sampled away is no example");
        kinds_.push_back(emission.kind);
        rates_.push_back(emission.sample_rate);
        for (size_t task = 0; task < tasks.size(); ++task) labels_[task].push_back(layout.value(emission.labels, task));
    }
}

size_t ExampleColumns::write(char* out) const {
    const std::vector<size_t> scored = served_.tasks_with_scores();
    const size_t num_lists = features_.sparse().size() + features_.dense().size();
    const size_t num_served = scored.empty() ? 0 : 2 + scored.size();
    const size_t num_nodes = 5 + labels_.size() + 2 * num_lists + num_served;
    const size_t num_buffers =
        3 + 2 * (4 + labels_.size() + num_served) + 4 * features_.sparse().size() + 3 * features_.dense().size();
    RecordBatch batch(num_, num_nodes, num_buffers, out);
    batch.add_texts(id_ends_, ids_);
    batch.add_values(items_);
    batch.add_values(times_ms_);
    batch.add_values(kinds_);
    batch.add_values(rates_);
    for (const std::vector<float>& labels : labels_) batch.add_values(labels);
    for (const SparseColumn& column : features_.sparse()) batch.add_bags(column);
    for (const DenseColumn& column : features_.dense()) batch.add_dense(column);
    if (!scored.empty())
        for (int text = 0; text < 2; ++text) batch.add_values(served_.codes());
    for (size_t task : scored) batch.add_values(served_.scores(task));
    return batch.finish();
}

}  // namespace monolith::joiner
