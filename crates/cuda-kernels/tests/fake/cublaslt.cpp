// cuBLASLt for tests, on the driver beside it: y = w x of bf16 in columns, `w` taken transposed, and a bias. It knows no way
// to multiply more than 64 columns.
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>

using cublasStatus_t = int;
enum : cublasStatus_t { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16BF = 14, EPILOGUE_BIAS = 4 };

// Attributes by number, of a description and of preferences.
struct Attributes {
    std::map<int, uint64_t> values;

    cublasStatus_t set(int attribute, const void* value, size_t bytes) {
        if (bytes > 8) return INVALID_VALUE;
        return memcpy(&(values[attribute] = 0), value, bytes), SUCCESS;
    }
};

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
};

extern "C" void fake_enqueue(const std::function<int()>& work);

#define CALL extern "C" cublasStatus_t

CALL cublasLtCreate(void** handle) { return *handle = new char, SUCCESS; }
CALL cublasLtDestroy(char* handle) { return delete handle, SUCCESS; }
CALL cublasLtMatmulDescCreate(Attributes** made, int, int) { return *made = new Attributes, SUCCESS; }
CALL cublasLtMatmulDescDestroy(Attributes* made) { return delete made, SUCCESS; }
CALL cublasLtMatmulPreferenceCreate(Attributes** made) { return *made = new Attributes, SUCCESS; }
CALL cublasLtMatmulPreferenceDestroy(Attributes* made) { return delete made, SUCCESS; }
CALL cublasLtMatrixLayoutDestroy(Layout* made) { return delete made, SUCCESS; }

CALL cublasLtMatmulDescSetAttribute(Attributes* of, int attribute, const void* value, size_t bytes) {
    return of->set(attribute, value, bytes);
}

CALL cublasLtMatmulPreferenceSetAttribute(Attributes* of, int attribute, const void* value, size_t bytes) {
    return of->set(attribute, value, bytes);
}

CALL cublasLtMatrixLayoutCreate(Layout** made, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    if (stride < int64_t(rows)) return INVALID_VALUE;
    return *made = new Layout{type, rows, columns, stride}, SUCCESS;
}

CALL cublasLtMatmulAlgoGetHeuristic(void*, Attributes*, Layout* w, Layout* x, Layout*, Layout* y, Attributes*, int, void* found,
                                    int* count) {
    if (w->type != R_16BF || x->type != R_16BF || y->type != R_32F) return NOT_SUPPORTED;
    // An algorithm, a size, a status, a number and four more words.
    memset(found, 0, 64 + 8 + 4 + 4 + 16);
    return *count = x->columns <= 64, SUCCESS;
}

static float wide(uint16_t half) {
    const uint32_t bits = uint32_t(half) << 16;
    float value;
    return memcpy(&value, &bits, 4), value;
}

CALL cublasLtMatmul(void*, Attributes* product, const float* alpha, const uint16_t* w, Layout* w_is, const uint16_t* x,
                    Layout* x_is, const float* beta, const float*, Layout*, float* y, Layout* y_is, const void*, void* workspace,
                    size_t, void*) {
    const bool transposed = product->values[3] == 1;
    if (!transposed || *alpha != 1 || *beta != 0 || !workspace) return INVALID_VALUE;
    const Layout of_w = *w_is, of_x = *x_is, of_y = *y_is;
    if (of_w.rows != of_x.rows || of_w.columns != of_y.rows || of_x.columns != of_y.columns) return INVALID_VALUE;
    const float* bias = nullptr;
    if (product->values[7] == EPILOGUE_BIAS) memcpy(&bias, &product->values[8], 8);
    fake_enqueue([=] {
        for (uint64_t row = 0; row < of_y.columns; ++row)
            for (uint64_t column = 0; column < of_y.rows; ++column) {
                float sum = bias ? bias[column] : 0;
                for (uint64_t i = 0; i < of_w.rows; ++i) sum += wide(w[column * of_w.stride + i]) * wide(x[row * of_x.stride + i]);
                y[row * of_y.stride + column] = sum;
            }
        return 0;
    });
    return SUCCESS;
}
