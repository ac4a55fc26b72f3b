"""Identity matters in deep learning (Hardt and Ma 2017): its Table 2, and its theorems computed."""
