// The calls that eyas.runtimes.llamacpp makes, without Python: pp and tg of a GGUF file, the best of some repeats.
// Linked to the llama.cpp that llama-bench was built of, it tells what is the library's from what is the measuring's.
//
//     g++ -std=c++17 -O2 -I SOURCE/include -I SOURCE/ggml/include benchmarks/llama_calls.cpp -o llama_calls -fopenmp
//         BUILD/src/libllama.a BUILD/ggml/src/lib{ggml,ggml-cpu,ggml-base}.a -ldl -lpthread
//     ./llama_calls model.gguf 128 32 3 1         # prompt tokens, steps, repeats, threads

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

static double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int main(int argc, char ** argv) {
    if (argc != 6) {
        fprintf(stderr, "llama_calls model.gguf PROMPT STEPS REPEATS THREADS\n");
        return 1;
    }
    const int prompt = atoi(argv[2]), steps = atoi(argv[3]), repeats = atoi(argv[4]), threads = atoi(argv[5]);
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) {
        fprintf(stderr, "%s cannot be loaded\n", argv[1]);
        return 1;
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = prompt + steps + 1;
    params.n_batch = params.n_ubatch = std::min(512, prompt + steps + 1);
    llama_context * context = llama_init_from_model(model, params);
    llama_set_n_threads(context, threads, threads);
    std::vector<llama_token> ids(prompt);
    for (llama_token & id : ids) {
        id = rand() % llama_vocab_n_tokens(llama_model_get_vocab(model));
    }
    double pp = 0, tg = 0;
    for (int repeat = 0; repeat <= repeats; repeat++) {
        llama_memory_clear(llama_get_memory(context), false);
        llama_batch batch{};
        batch.n_tokens = prompt;
        batch.token = ids.data();
        double started = seconds();
        if (llama_decode(context, batch)) {
            return 1;
        }
        llama_synchronize(context);
        const double prefill = prompt / (seconds() - started);
        started = seconds();
        for (int step = 0; step < steps; step++) {
            batch.n_tokens = 1;
            if (llama_decode(context, batch)) {
                return 1;
            }
            llama_synchronize(context);
        }
        if (repeat) {  // the first one warms up
            pp = std::max(pp, prefill);
            tg = std::max(tg, steps / (seconds() - started));
        }
    }
    printf("pp %.1f tok/s, tg %.1f tok/s\n", pp, tg);
    return 0;
}
