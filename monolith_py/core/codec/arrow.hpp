// Messages of an Arrow IPC stream, in the form that serializers write: little-endian, metadata version 5, no
// compression (Message.fbs and Schema.fbs of Apache Arrow). Everything else throws OtherForm.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "codec/flatbuffer.hpp"

namespace monolith::codec {

enum class MessageKind : uint8_t { kSchema = 1, kDictionary = 2, kRecordBatch = 3 };

struct Message {
    MessageKind kind;
    FlatTable header;
    std::string_view body;
};

// Messages of a stream that ends with its mark, and with nothing after that.
class MessageReader {
  public:
    explicit MessageReader(std::string_view stream) : stream_(stream) {}
    // Return the next message, none at the end.
    std::optional<Message> next();

  private:
    std::string_view stream_;
    size_t at_ = 0;
};

enum class ColumnType : uint8_t { kInt64, kUint8, kFloat, kText, kDictionary, kBags, kDense };

// A column of a schema.
struct Field {
    std::string_view name;
    ColumnType type;
    size_t width = 0;            // values a row of a dense column
    int64_t dictionary_id = -1;  // of a column with a dictionary of texts
};

// Return the columns of a schema; their names are UTF-8.
std::vector<Field> read_fields(const FlatTable& schema);

// Texts one after the other.
struct Texts {
    size_t size = 0;
    const char* offsets = nullptr;  // int32 (size + 1,), ascending
    std::string_view bytes;

    int32_t offset(size_t index) const { return joiner::load<int32_t>(offsets + index * sizeof(int32_t)); }
    std::string_view text(size_t index) const {
        return bytes.substr(static_cast<size_t>(offset(index)), static_cast<size_t>(offset(index + 1) - offset(index)));
    }
};

// Lists of int64.
struct Bags {
    const char* offsets = nullptr;  // int32 (rows + 1,), ascending
    const char* fids = nullptr;     // int64
};

// Columns of a record batch, taken one after the other. None has a null; offsets and text are checked.
class BatchReader {
  public:
    // `batch`: the table, `body`: its bytes.
    BatchReader(const FlatTable& batch, std::string_view body);
    size_t num_rows() const { return num_rows_; }
    // Return num_rows * `per_row` values of `value_bytes` each.
    const char* values(size_t value_bytes, size_t per_row = 1);
    Texts texts();
    Bags bags();
    const char* dense(size_t width);
    // Check that nothing is left.
    void finish() const;

  private:
    // Take the node of an array of `length` values and its empty buffer of nulls.
    void node(size_t length);
    size_t child_node();
    std::string_view buffer();
    const char* buffer_of(size_t num_bytes);
    // Take the offsets of `num_rows_` items in [0, `limit`] once that is known: the last offset is returned.
    const char* offsets(size_t& last);

    std::string_view body_;
    FlatVector nodes_, buffers_;
    size_t num_rows_ = 0, node_ = 0, buffer_ = 0;
};

}  // namespace monolith::codec
