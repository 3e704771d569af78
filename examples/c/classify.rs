// Classifies with libedgec: classify MODEL.edge INPUT.bin. In a project, bindgen makes these declarations of edgec.h.
use std::{env, ffi::*, fs, ptr};
#[repr(C)]
struct Tensor { name: *const c_char, dtype: i32, rank: i32, shape: *const i64, bytes: usize }
extern "C" {
    fn edgec_load(path: *const c_char, set: c_int, model: *mut *mut c_void) -> c_int;
    fn edgec_open(model: *const c_void, options: *const c_void, session: *mut *mut c_void) -> c_int;
    fn edgec_output(model: *const c_void, number: c_int) -> *const Tensor;
    fn edgec_run(session: *mut c_void, inputs: *const *const c_void, outputs: *const *mut c_void) -> c_int;
    fn edgec_last_error() -> *const c_char;
}
fn check(code: c_int) { if code != 0 { panic!("{}", unsafe { CStr::from_ptr(edgec_last_error()) }.to_string_lossy()) } }
fn main() {
    let (path, input) = (CString::new(env::args().nth(1).unwrap()).unwrap(), fs::read(env::args().nth(2).unwrap()).unwrap());
    let (mut model, mut session) = (ptr::null_mut(), ptr::null_mut());
    unsafe {
        check(edgec_load(path.as_ptr(), 0, &mut model));
        check(edgec_open(model, ptr::null(), &mut session));
        let mut output = vec![0f32; (*edgec_output(model, 0)).bytes / 4];
        check(edgec_run(session, &(input.as_ptr() as *const c_void), &(output.as_mut_ptr() as *mut c_void)));
        for (i, score) in output.iter().enumerate() { println!("{} {}", i, score) }
    }
}
